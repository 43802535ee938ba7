"""Objectives over one batch format, each a small pure file with its source; see docs/objectives.md."""

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
