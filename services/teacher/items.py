"""What is scored and what comes back, as numpy. Shape suffixes: C prompt ids, T response ids, K support ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int32]
Float = NDArray[np.float32]
SupportKind = Literal["student", "teacher", "none"]
Across = Literal["mapped", "ranked", "hybrid"]
"""Which rows a teacher with another tokenizer fills; docs/objectives.md."""

PAD_ID = -1
"""A support id that stands for "no id here" (rows of ragged K)."""

OWN_ID = -2
"""A row of nothing but these asks for the teacher's own k likeliest ids, best first, in place of named ones."""

PAD_LOGPROB = -1e4
"""The log-prob at a padded id, and the floor of every log-prob: -inf never crosses the wire, since the loss
would turn it into NaN gradients behind a finite value. exp(-1e4) is 0 and float16 holds -1e4 exactly."""

TAIL_FLOOR = float(np.log(-np.expm1(-1e-7)))
"""Floor of `tail_logprob`, about -16.12: the same floor as the loss side's log(-expm1(min(lse, -1e-7))),
so that a teacher equal to the student gives a loss of exactly 0 (docs/objectives.md)."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a rollout is to be scored. Only items with equal `Scoring` share a forward batch.

    `k` is the support's width: 0 with "none". `temperature` divides the logits before the softmax.
    `own_rows`: with "student", some rows of the support are OWN_ID.
    """

    support: SupportKind
    k: int
    temperature: float = 1.0
    own_rows: bool = False


@dataclass(frozen=True, slots=True)
class Alignment:
    """How a rollout at the teacher's ids lies beside the student's own: U teacher tokens, M pairs of like tokens."""

    aligned_T: Int
    """Aligned chunk of each student token, counting up from 0; -1 where the teacher has no value."""
    chunk_U: NDArray[np.int64]
    """Aligned chunk of each teacher token, -1 of one between two turns; empty where the teacher has no value at all."""
    pairs_M2: NDArray[np.int64]
    """Positions (student, teacher) of tokens that are the same bytes: there the support is compared."""
    support_ids_TK: Int | None
    """The student's support, PAD_ID for ids that the teacher lacks and at all positions outside `pairs_M2`; rows of
    OWN_ID at those of `ranked_M2`."""
    ranked_M2: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """Positions (student, teacher) of the first tokens of the chunks that are compared by rank."""


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """One rollout to score; checked by `rgopd.teacher.validation` before it is queued."""

    id: str
    prompt_ids_C: Int
    response_ids_T: Int
    scoring: Scoring
    support_ids_TK: Int | None = None
    """With support "student": the ids to score at each response position, PAD_ID where a row is shorter. A whole
    row of OWN_ID: the teacher's own likeliest."""
    alignment: Alignment | None = None
    """Set where all ids here are the teacher's own and the student's are others."""

    @property
    def tokens(self) -> int:
        """Length of prompt + response: what admission and batches count."""
        return len(self.prompt_ids_C) + len(self.response_ids_T)

    @property
    def input_ids(self) -> Int:
        """int32[C+T], prompt then response."""
        return np.concatenate([self.prompt_ids_C, self.response_ids_T])


@dataclass(frozen=True, slots=True)
class Score:
    """The teacher's log-probs of one rollout, float32, at the request's temperature, over the shared vocabulary.

    `sampled_logprobs_T` is exact. With support "none" the other three are None; with "student" `topk_ids_TK`
    is the caller's own array. `tail_logprob_T` = log(1 - sum_k exp(topk_logprobs)), never below TAIL_FLOOR.
    """

    sampled_logprobs_T: Float
    topk_ids_TK: Int | None = None
    topk_logprobs_TK: Float | None = None
    tail_logprob_T: Float | None = None
    aligned_T: Int | None = None
    """As `Alignment.aligned_T`, where the score was brought back from another tokenizer."""
    rest_logprob_T: Float | None = None
    """With ranked rows: there the log-prob of the teacher's tokens of the chunk after its first, 0 elsewhere."""
