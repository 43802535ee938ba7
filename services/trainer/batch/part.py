"""One stored rollout and its score as arrays, every number looked at before anything is trained on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgopd.common import wire
from rgopd.common.conversation import own_tokens
from rgopd.common.errors import InvalidInput
from rgopd.protos import common_pb2, rollout_pb2, teacher_pb2
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives.base import Across

MAX_LOGPROB = 0.01
"""float16 and bfloat16 softmaxes round a probability of 1 up by less than this."""

OWN_ID = -2
"""Throughout a row of a score's `topk_ids`: it is ranked (protos/teacher.proto)."""


@dataclass(frozen=True)
class BatchOptions:
    """How a rank turns its rollouts into tensors."""

    needs_teacher: bool
    total_steps: int
    packing: bool = False
    prefilter: GateConfig | None = None
    """Leave out rollouts of which this gate would keep nothing if the student still were the behaviour policy."""
    aligns: bool = False
    """Take scores of a teacher with another tokenizer."""
    support: bool = True
    """Scores hold the teacher's log-probs on a support; False: of the sampled tokens alone."""
    current_k: int = 0
    """How many of the support's ids the current student chooses; 0: all of them count."""
    across: Across = "mapped"
    """What a teacher with another tokenizer was asked for."""


@dataclass(frozen=True)
class Part:
    """One rollout's arrays. K may differ between rollouts; -1 pads.

    T tokens are trained on: the student's own. In a conversation the sequence behind the prompt is longer,
    `sequence_L`, and `own_T` says where in it they are; elsewhere both are None.
    """

    prompt_ids_C: NDArray[np.int32]
    response_ids_T: NDArray[np.int32]
    behaviour_T: NDArray[np.float32]
    support_ids_TK: NDArray[np.int32]
    teacher_sampled_T: NDArray[np.float32] | None
    teacher_support_TK: NDArray[Any] | None
    teacher_tail_T: NDArray[np.float32] | None
    aligned_T: NDArray[np.int32] | None = None
    ranked_T: NDArray[np.bool_] | None = None
    teacher_rest_T: NDArray[np.float32] | None = None
    sequence_L: NDArray[np.int32] | None = None
    own_T: NDArray[np.intp] | None = None

    def sequence(self) -> NDArray[np.int64]:
        """What the forward pass reads."""
        after = self.response_ids_T if self.sequence_L is None else self.sequence_L
        return np.concatenate([self.prompt_ids_C, after]).astype(np.int64)

    def predicting(self) -> NDArray[np.intp]:
        """The position in `sequence` that predicts each of the T tokens."""
        own_T = np.arange(len(self.response_ids_T)) if self.own_T is None else self.own_T
        return len(self.prompt_ids_C) - 1 + own_T


def read_part(
    item: str, rollout: rollout_pb2.Rollout, score: teacher_pb2.TeacherScore | None, options: BatchOptions
) -> Part:
    """A rollout with its score, checked.

    Raises:
        InvalidInput: numbers that are not log-probs, or shapes that do not fit each other.
    """
    response_ids_T = wire.from_tensor(rollout.response_ids, f"{item}.response_ids", dtype="int32", ndim=1)
    support_ids_TK = wire.from_tensor(rollout.support_ids, f"{item}.support_ids", dtype="int32", ndim=2)
    sampled = topk = tail = aligned = ranked = rest = None
    if score is not None:
        sampled = wire.from_tensor(score.sampled_logprobs, f"{item}.sampled_logprobs", dtype="float32", ndim=1)
        if len(sampled) != len(response_ids_T):
            raise InvalidInput(f"{item}: {len(sampled)} teacher log-probs for {len(response_ids_T)} response tokens")
        _check_logprobs(item, "sampled_logprobs", sampled)
        if options.support:
            support_ids_TK, topk, tail = _on_support(item, score, support_ids_TK)
        if score.HasField("aligned"):
            aligned = _aligned(item, score.aligned, len(response_ids_T), options.aligns)
            if options.across != "mapped":
                own_TK = wire.from_tensor(rollout.support_ids, f"{item}.support_ids", dtype="int32", ndim=2)
                ranked, rest = _ranked(item, score, aligned, support_ids_TK, options.across)
                support_ids_TK = np.where(ranked[:, None], own_TK, support_ids_TK)
    behaviour = wire.from_tensor(rollout.sampled_logprobs, f"{item}.sampled_logprobs", dtype="float32", ndim=1)
    if len(behaviour) != len(response_ids_T):
        raise InvalidInput(f"{item}: {len(behaviour)} behaviour log-probs for {len(response_ids_T)} response tokens")
    _check_logprobs(item, "behaviour log-probs", behaviour, source="sampler")
    part = Part(
        wire.from_tensor(rollout.prompt_ids, f"{item}.prompt_ids", dtype="int32", ndim=1),
        response_ids_T,
        behaviour,
        support_ids_TK,
        sampled,
        topk,
        tail,
        aligned,
        ranked,
        rest,
    )
    return _own(part, own_tokens(rollout))


def _own(part: Part, own_L: NDArray[np.bool_] | None) -> Part:
    """The part with the tokens that the student sampled; what its environment said is context and nothing else."""
    if own_L is None:
        return part
    arrays = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name != "prompt_ids_C"}
    own = {name: array[own_L] for name, array in arrays.items() if array is not None}
    return dataclasses.replace(part, **own, sequence_L=part.response_ids_T, own_T=np.flatnonzero(own_L))


def _on_support(
    item: str, score: teacher_pb2.TeacherScore, support_ids_TK: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[Any], NDArray[np.float32]]:
    """The support, the teacher's log-probs on it, and its tail."""
    if not score.HasField("topk_logprobs"):
        raise InvalidInput(f"{item}: its teacher score has no support; was it asked for in this run?")
    if score.HasField("topk_ids"):
        support_ids_TK = wire.from_tensor(score.topk_ids, f"{item}.topk_ids", dtype="int32", ndim=2)
    topk = wire.from_tensor(score.topk_logprobs, f"{item}.topk_logprobs", ndim=2)
    tail = wire.from_tensor(score.tail_logprob, f"{item}.tail_logprob", dtype="float32", ndim=1)
    rows = wire.from_tensor(score.sampled_logprobs).shape[0]
    if topk.shape != support_ids_TK.shape or not rows == len(tail) == len(topk):
        raise InvalidInput(
            f"{item}: teacher score {topk.shape} does not fit support {support_ids_TK.shape} "
            f"of a response of {rows} tokens"
        )
    for name, values in (("topk_logprobs", topk), ("tail_logprob", tail)):
        _check_logprobs(item, name, values)
    return support_ids_TK, topk, tail


def _aligned(item: str, tensor: common_pb2.Tensor, tokens: int, aligns: bool) -> NDArray[np.int32]:
    aligned_T = wire.from_tensor(tensor, f"{item}.aligned", dtype="int32", ndim=1)
    if not aligns:
        raise InvalidInput(
            f"{item}: its teacher has another tokenizer, which this objective or distillation.tail cannot use; take "
            "reverse_kl, rg_opd or a weighted_sum of them, with tail: tail, or a teacher of the student's family"
        )
    if len(aligned_T) != tokens:
        raise InvalidInput(f"{item}: {len(aligned_T)} aligned chunk numbers for {tokens} response tokens")
    return aligned_T


def _ranked(
    item: str,
    score: teacher_pb2.TeacherScore,
    aligned_T: NDArray[np.int32],
    answered_TK: NDArray[np.int32],
    across: Across,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which rows are ranked, and the log-probs of the rest of their chunks."""
    ranked_T = answered_TK[:, 0] == OWN_ID
    first_T = (aligned_T >= 0) & (np.diff(aligned_T, prepend=-1) != 0)
    mapped_T = (answered_TK >= 0).any(1) if across == "hybrid" else np.zeros(len(first_T), bool)
    if not np.array_equal(ranked_T, first_T & ~mapped_T):
        raise InvalidInput(
            f"{item}: its teacher was asked for ranks at the first tokens of chunks and sent other rows: is it of an "
            "older version than the trainer?"
        )
    if not score.HasField("rest_logprob"):
        return ranked_T, np.zeros(len(aligned_T), np.float32)
    rest_T = wire.from_tensor(score.rest_logprob, f"{item}.rest_logprob", dtype="float32", ndim=1)
    if len(rest_T) != len(aligned_T):
        raise InvalidInput(f"{item}: {len(rest_T)} rest_logprob for {len(aligned_T)} response tokens")
    _check_logprobs(item, "rest_logprob", rest_T)
    return ranked_T, rest_T


def _check_logprobs(item: str, name: str, values: NDArray[Any], source: str = "teacher") -> None:
    """A log-prob is a finite number of at most 0 (a little over, after rounding). NaN would poison every weight."""
    good = np.isfinite(values) & (values <= MAX_LOGPROB)
    if name == "tail_logprob":  # -inf: the support holds all of the probability
        good |= np.isneginf(values)
    if not good.all():
        raise InvalidInput(
            f"{item}: the {source}'s {name} holds {values[~good].flat[0]}, which is no log-prob; nothing was trained "
            f"on it. Look at the {source}: its dtype (set {source}.dtype=float32), its weights, its log"
        )
