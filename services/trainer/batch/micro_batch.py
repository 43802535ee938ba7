"""From stored rollouts and scores to the tensors of one micro-batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rgopd.common import wire
from rgopd.common.conversation import own_tokens
from rgopd.common.errors import InvalidInput
from rgopd.common.streams import Streams
from rgopd.protos import common_pb2, rollout_pb2, teacher_pb2
from rgopd.trainer.batch.packing import PackedRow
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.batch.stored import Vanished, read_rollouts, read_scores
from rgopd.trainer.gating.gate import GateConfig, decide_gate
from rgopd.trainer.objectives import TokenBatch

MAX_LOGPROB = 0.01
"""float16 and bfloat16 softmaxes round a probability of 1 up by less than this."""


@dataclass(frozen=True)
class MicroBatch:
    """R rollouts, right-padded or packed into one row for the forward; their N response tokens flat after it."""

    input_ids_BS: Tensor
    attention_mask_BS: Tensor | None
    """None where they are packed."""
    rows_N: Tensor
    """int64: the flattened position that predicts each response token."""
    tokens: TokenBatch
    rollout_ids: list[str]
    packed: PackedRow | None = None
    dropped: Dropped | None = None
    """What a gate on the behaviour log-probs took out before the forward."""
    temperature: float | None = None
    """What all of its rollouts were sampled at; None: the run's."""

    @property
    def empty(self) -> bool:
        """A place holder: it takes part in the collectives and contributes nothing."""
        return not self.rollout_ids

    @property
    def sequence_tokens(self) -> int:
        """Prompt and response tokens of its rollouts."""
        if self.empty:
            return 0
        return sum(self.packed.lengths) if self.packed is not None else int(self.attention_mask_BS.sum())  # type: ignore[union-attr]

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; not copied where it is there already."""
        if self.input_ids_BS.device == device:
            return self
        tokens: dict[str, Any] = {
            item.name: value.to(device)
            for item in dataclasses.fields(self.tokens)
            if isinstance(value := getattr(self.tokens, item.name), Tensor)
        }
        return dataclasses.replace(
            self,
            input_ids_BS=self.input_ids_BS.to(device),
            attention_mask_BS=None if self.attention_mask_BS is None else self.attention_mask_BS.to(device),
            rows_N=self.rows_N.to(device),
            tokens=dataclasses.replace(self.tokens, **tokens),
            packed=None if self.packed is None else self.packed.to(device),
        )


@dataclass(frozen=True)
class Dropped:
    """Rollouts without a forward: `stats` as of `GateDecision`, of which nothing is kept."""

    tokens: int
    stats: dict[str, Tensor]


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


def load_micro_batch(streams: Streams, plans: Sequence[RolloutPlan], options: BatchOptions, *, step: int) -> MicroBatch:
    """Read a rank's own rollouts and scores from the blob store.

    Raises:
        Vanished: one is gone from Redis.
        InvalidInput: numbers that are not log-probs, or shapes that do not fit each other; names the rollout.
    """
    ids = [p.rollout_id for p in plans]
    rollouts = read_rollouts(streams, ids)
    scores: list[teacher_pb2.TeacherScore | None] = (
        read_scores(streams, ids) if options.needs_teacher else [None] * len(ids)
    )
    parts = []
    for item, rollout, score in zip(ids, rollouts, scores, strict=True):
        if rollout is None or (options.needs_teacher and score is None):
            raise Vanished(f"rollout {item} or its teacher score was stored and is gone from Redis")
        parts.append(_part(item, rollout, score, options))
    if options.prefilter is not None:
        micro = prefiltered(parts, plans, options, options.prefilter, step=step)
    else:
        micro = assemble(parts, plans, step=step, total_steps=options.total_steps, packing=options.packing)
    return dataclasses.replace(micro, tokens=dataclasses.replace(micro.tokens, current_k=options.current_k))


def prefiltered(
    parts: Sequence[Part], plans: Sequence[RolloutPlan], options: BatchOptions, gate: GateConfig, *, step: int
) -> MicroBatch:
    """`assemble` without the rollouts that `gate` wholly drops when it reads the behaviour log-probs as the student's.

    On policy they are the student's up to rounding; for stale rollouts this is a guess, which is why it is an option.
    What is left still goes through the exact gate.
    """

    def build(chosen: list[int], packing: bool) -> MicroBatch:
        return assemble(
            [parts[i] for i in chosen],
            [plans[i] for i in chosen],
            step=step,
            total_steps=options.total_steps,
            packing=packing,
        )

    everything = list(range(len(parts)))
    kept_R = _kept_tokens(build(everything, False).tokens, gate)[0]
    inside = [i for i in everything if kept_R[i] > 0]
    outside = build([i for i in everything if kept_R[i] == 0], False).tokens
    dropped = Dropped(int(outside.sampled_ids_N.numel()), _kept_tokens(outside, gate)[1])
    return dataclasses.replace(build(inside, options.packing), dropped=dropped)


def _kept_tokens(tokens: TokenBatch, gate: GateConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Kept tokens a rollout by the behaviour log-probs, and the gate's sums."""
    assert tokens.teacher_sampled_N is not None, "a gate without a teacher is refused when the run is configured"
    decision = decide_gate(
        gate,
        tokens.advantage_R,
        tokens.reward_R,
        tokens.teacher_sampled_N,
        tokens.behaviour_logprobs_N,
        tokens.rollout_N,
        step=tokens.step,
        aligned_N=tokens.aligned_N,
    )
    kept_R = torch.bincount(tokens.rollout_N[decision.keep_N], minlength=tokens.advantage_R.shape[0])
    return kept_R, decision.stats


def _part(
    item: str, rollout: rollout_pb2.Rollout, score: teacher_pb2.TeacherScore | None, options: BatchOptions
) -> Part:
    response_ids_T = wire.from_tensor(rollout.response_ids, f"{item}.response_ids", dtype="int32", ndim=1)
    support_ids_TK = wire.from_tensor(rollout.support_ids, f"{item}.support_ids", dtype="int32", ndim=2)
    sampled = topk = tail = aligned = None
    if score is not None:
        sampled = wire.from_tensor(score.sampled_logprobs, f"{item}.sampled_logprobs", dtype="float32", ndim=1)
        if len(sampled) != len(response_ids_T):
            raise InvalidInput(f"{item}: {len(sampled)} teacher log-probs for {len(response_ids_T)} response tokens")
        _check_logprobs(item, "sampled_logprobs", sampled)
        if options.support:
            support_ids_TK, topk, tail = _on_support(item, score, support_ids_TK)
        if score.HasField("aligned"):
            aligned = _aligned(item, score.aligned, len(response_ids_T), options.aligns)
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
    )
    return _own(part, own_tokens(rollout))


def _own(part: Part, own_L: NDArray[np.bool_] | None) -> Part:
    """The part with the tokens that the student sampled; what its environment said is context and nothing else."""
    if own_L is None:
        return part
    if part.aligned_T is not None:
        raise InvalidInput(
            "a teacher with another tokenizer cannot score conversations: take one of the student's family"
        )
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


def assemble(
    parts: Sequence[Part], plans: Sequence[RolloutPlan], *, step: int, total_steps: int, packing: bool = False
) -> MicroBatch:
    """Pad or pack, and flatten. No parts: an empty micro-batch that still has a forward and a backward.

    Raises:
        ValueError: rollouts of several temperatures, which share no head.
    """
    if not parts:
        return _empty(step, total_steps, packing)
    temperature = plans[0].temperature
    if any(plan.temperature != temperature for plan in plans):
        raise ValueError(f"one micro-batch has temperatures {sorted({p.temperature or 0.0 for p in plans})}")
    sequences = [p.sequence() for p in parts]
    width = max(map(len, sequences))
    starts = np.cumsum([0, *map(len, sequences[:-1])]) if packing else width * np.arange(len(parts))
    rows = [start + p.predicting() for start, p in zip(starts, parts, strict=True)]
    lengths = [len(p.response_ids_T) for p in parts]
    k = max(p.support_ids_TK.shape[1] for p in parts)
    scored = all(p.teacher_sampled_T is not None for p in parts)
    supported = all(p.teacher_support_TK is not None for p in parts)
    tokens = TokenBatch(
        sampled_ids_N=_flat([p.response_ids_T for p in parts], torch.int64),
        behaviour_logprobs_N=_flat([p.behaviour_T for p in parts], torch.float32),
        support_ids_NK=_flat([_widen(p.support_ids_TK, k, -1) for p in parts], torch.int64),
        rollout_N=torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(lengths)),
        advantage_R=torch.tensor([p.advantage for p in plans], dtype=torch.float32),
        reward_R=torch.tensor([p.reward for p in plans], dtype=torch.float32),
        teacher_sampled_N=_flat([p.teacher_sampled_T for p in parts], torch.float32) if scored else None,
        teacher_support_NK=(
            _flat([_widen(p.teacher_support_TK, k, 0) for p in parts], torch.float32) if supported else None
        ),
        teacher_tail_N=_flat([p.teacher_tail_T for p in parts], torch.float32) if supported else None,
        aligned_N=_first_of_chunk(parts, lengths),
        step=step,
        total_steps=total_steps,
    )
    rows_N, names = torch.from_numpy(np.concatenate(rows)), [p.rollout_id for p in plans]
    if packing:
        ids_1S = torch.from_numpy(np.concatenate(sequences))[None]
        packed = PackedRow.of([len(s) for s in sequences])
        return MicroBatch(ids_1S, None, rows_N, tokens, names, packed, temperature=temperature)
    input_ids_BS, mask_BS = (np.zeros((len(parts), width), dtype=np.int64) for _ in range(2))
    for b, sequence in enumerate(sequences):
        input_ids_BS[b, : len(sequence)] = sequence
        mask_BS[b, : len(sequence)] = 1
    ids_BS = torch.from_numpy(input_ids_BS)
    return MicroBatch(ids_BS, torch.from_numpy(mask_BS), rows_N, tokens, names, temperature=temperature)


def _empty(step: int, total_steps: int, packing: bool) -> MicroBatch:
    one, none_N = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    floats_N = torch.zeros(0)
    tokens = TokenBatch(
        sampled_ids_N=none_N,
        behaviour_logprobs_N=floats_N,
        support_ids_NK=torch.zeros(0, 1, dtype=torch.int64),
        rollout_N=none_N,
        advantage_R=floats_N,
        reward_R=floats_N,
        teacher_sampled_N=floats_N,
        teacher_support_NK=torch.zeros(0, 1),
        teacher_tail_N=floats_N,
        step=step,
        total_steps=total_steps,
    )
    if packing:
        return MicroBatch(one, None, none_N, tokens, [], PackedRow.of([1]))
    return MicroBatch(one, torch.ones_like(one), none_N, tokens, [])


def _first_of_chunk(parts: Sequence[Part], lengths: Sequence[int]) -> Tensor | None:
    """``TokenBatch.aligned_N``; a rollout that its teacher scored at the student's own ids is its own alignment."""
    if all(p.aligned_T is None for p in parts):
        return None
    flat = []
    for start, part, length in zip(np.cumsum([0, *lengths[:-1]]), parts, lengths, strict=True):
        chunk_T = np.arange(length) if part.aligned_T is None else part.aligned_T
        _, first, inverse = np.unique(chunk_T, return_index=True, return_inverse=True)
        flat.append(np.where(chunk_T < 0, -1, start + first[inverse]))
    return _flat(flat, torch.int64)


def _flat(arrays: Sequence[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays)).to(dtype)


def _widen(array_TK: Any, k: int, fill: int) -> NDArray[Any]:
    if array_TK.shape[1] == k:
        return np.asarray(array_TK)
    return np.pad(array_TK, ((0, 0), (0, k - array_TK.shape[1])), constant_values=fill)
