"""Objectives over one batch format, each a small pure file with its source; see docs/objectives.md.

In: `HeadStats` (the student's log-probs, with gradients) and a `TokenBatch` of N response tokens.
Out: `ObjectiveOutput`: losses `[N]` in nats and sums for the metrics; `step` makes of it a gated sum.
Not imported: batches' making, the student, orchestration. A new one is one file here and one line below.
"""

from __future__ import annotations

from rgopd.trainer.objectives import (  # noqa: F401  (imported to be registered)
    forward_kl,
    grpo,
    jsd,
    kdrl,
    minillm,
    reverse_kl,
    rlad,
    sdpo,
    tsd_kd,
    weighted_sum,
)
from rgopd.trainer.objectives.base import Objective, ObjectiveBase, ObjectiveOutput, TokenBatch
from rgopd.trainer.objectives.registry import get_objective, names, register

__all__ = ["Objective", "ObjectiveBase", "ObjectiveOutput", "TokenBatch", "get_objective", "names", "register"]
