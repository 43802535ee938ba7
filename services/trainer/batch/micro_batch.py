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

from rgopd.common.streams import Streams
from rgopd.protos import teacher_pb2
from rgopd.trainer.batch.packing import PackedRow
from rgopd.trainer.batch.part import BatchOptions, Part, read_part
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.batch.stored import Vanished, read_rollouts, read_scores
from rgopd.trainer.gating.gate import GateConfig, decide_gate
from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.objectives import TokenBatch

__all__ = ["BatchOptions", "Dropped", "MicroBatch", "Part", "assemble", "load_micro_batch", "prefiltered"]


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


def load_micro_batch(streams: Streams, plans: Sequence[RolloutPlan], options: BatchOptions, *, step: int) -> MicroBatch:
    """Read a rank's own rollouts and scores from the blob store.

    Raises:
        Vanished: one is gone from its store.
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
            raise Vanished(f"rollout {item} or its teacher score was stored and is gone from {streams.blobs.where}")
        parts.append(read_part(item, rollout, score, options))
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
            _flat([_widen(p.teacher_support_TK, k, PAD_LOGPROB) for p in parts], torch.float32) if supported else None
        ),
        teacher_tail_N=_flat([p.teacher_tail_T for p in parts], torch.float32) if supported else None,
        step=step,
        total_steps=total_steps,
    )
    tokens = dataclasses.replace(tokens, **_alignment(parts, lengths))
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


def _alignment(parts: Sequence[Part], lengths: Sequence[int]) -> dict[str, Any]:
    """Of teachers with another tokenizer what `TokenBatch` has of them; nothing where there is none. A rollout that its
    teacher scored at the student's own ids is its own alignment."""
    if all(p.aligned_T is None for p in parts):
        return {}
    flat = []
    for start, part, length in zip(np.cumsum([0, *lengths[:-1]]), parts, lengths, strict=True):
        chunk_T = np.arange(length) if part.aligned_T is None else part.aligned_T
        _, first, inverse = np.unique(chunk_T, return_index=True, return_inverse=True)
        flat.append(np.where(chunk_T < 0, -1, start + first[inverse]))
    foreign = [np.full(n, p.aligned_T is not None) for p, n in zip(parts, lengths, strict=True)]
    found = {"aligned_N": _flat(flat, torch.int64), "foreign_N": _flat(foreign, torch.bool)}
    if any(p.ranked_T is not None for p in parts):
        both = [(np.zeros(n, bool), np.zeros(n, np.float32)) for n in lengths]
        pairs = [
            (p.ranked_T, p.teacher_rest_T) if p.ranked_T is not None else none
            for p, none in zip(parts, both, strict=True)
        ]
        found["ranked_N"] = _flat([ranked_T for ranked_T, _ in pairs], torch.bool)
        found["teacher_rest_N"] = _flat([rest_T for _, rest_T in pairs], torch.float32)
    return found


def _flat(arrays: Sequence[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays)).to(dtype)


def _widen(array_TK: Any, k: int, fill: float) -> NDArray[Any]:
    if array_TK.shape[1] == k:
        return np.asarray(array_TK)
    return np.pad(array_TK, ((0, 0), (0, k - array_TK.shape[1])), constant_values=fill)
