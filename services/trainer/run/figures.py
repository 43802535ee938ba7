"""Token figures of the rollouts that are watched, taken from the step's own forward pass; each rank has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rgopd.common.run_files.kept_files import pack
from rgopd.trainer.batch.micro_batch import MicroBatch
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.objectives.base import Objective, TokenBatch
from rgopd.trainer.objectives.step import HeadLoss
from rgopd.trainer.records.watch import KeepConfig


@dataclass(frozen=True)
class _Part:
    """The watched tokens of one micro-batch, still on its device."""

    rollouts: list[tuple[str, int, int]]
    """(rollout id, its tokens, those of them that have figures)."""
    tensors: dict[str, Tensor]


class Figures:
    """Takes what a step computed anyway. Costs a copy of the watched rows, and their loss once more.

    Args:
        watched: ids of the rollouts to look at, of any rank.
        mine: what this rank trains on.
        rank: this one.
    """

    def __init__(
        self, watched: Sequence[str], mine: Sequence[RolloutPlan], rank: int, objective: Objective, keep: KeepConfig
    ) -> None:
        chosen = set(watched)
        self.lengths = {plan.rollout_id: plan.response_tokens for plan in mine}
        self.mine = [plan.rollout_id for plan in mine if plan.rollout_id in chosen]
        self.rank = rank
        self.objective = objective
        self.keep = keep
        self._left = keep.tokens
        self._parts: list[_Part] = []

    def note(self, micro: MicroBatch, result: HeadLoss) -> None:
        """After each micro-batch; no value leaves the device here, so nothing waits for it."""
        rows: list[Tensor] = []
        rollouts: list[tuple[str, int, int]] = []
        start = 0
        for item in micro.rollout_ids:
            length = self.lengths[item]
            if item in self.mine:
                rows.append(torch.arange(start, start + length))
                shown = min(length, self._left)
                self._left -= shown
                rollouts.append((item, length, shown))
            start += length
        if rows:
            index = torch.cat(rows).to(micro.tokens.rollout_N.device)
            self._parts.append(_Part(rollouts, _taken(micro, result, self.objective, index)))

    def arrays(self) -> list[tuple[str, dict[str, NDArray[Any]], int]]:
        """(rollout id, arrays over its tokens, tokens with figures), on the host; call when the step is over."""
        found = []
        for part in self._parts:
            host = {name: tensor.cpu().numpy() for name, tensor in part.tensors.items()}
            start = 0
            for item, length, shown in part.rollouts:
                found.append((item, {name: array[start : start + length] for name, array in host.items()}, shown))
                start += length
        return found

    def rows(self, found: list[tuple[str, dict[str, NDArray[Any]], int]]) -> list[dict[str, Any]]:
        """Lines `tokens` of rollouts/step-N.jsonl.gz. Touches no tensor: for another thread."""
        rows = [_row(item, arrays, shown, self.rank, self.keep.top_k) for item, arrays, shown in found]
        forwarded = {item for item, _, _ in found}
        return rows + [
            {"kind": "tokens", "id": item, "rank": self.rank, "prefiltered": True}
            for item in self.mine
            if item not in forwarded
        ]


@torch.no_grad()
def _taken(micro: MicroBatch, result: HeadLoss, objective: Objective, index: Tensor) -> dict[str, Tensor]:
    stats, tokens = result.stats, micro.tokens
    if objective.row_local and tokens.aligned_N is None:
        output = objective.token_losses(stats.take(index), tokens.take(index))
        loss_N, ungated_N = output.loss_N, output.ungated_loss_N
    else:
        output = objective.token_losses(stats, tokens)
        loss_N = output.loss_N[index]
        ungated_N = None if output.ungated_loss_N is None else output.ungated_loss_N[index]
    taken = {
        "sampled_ids": tokens.sampled_ids_N[index].int(),
        "student": stats.sampled_logprobs_N[index],
        "behaviour": tokens.behaviour_logprobs_N[index],
        "loss": loss_N if ungated_N is None else loss_N + ungated_N,
        "keep": result.decision.keep_N[index],
        "support_ids": _named_by_both(tokens)[index].int(),
        "support_student": stats.support_logprobs_NK[index],
        "tail_student": stats.tail_logprob_N[index],
    }
    if tokens.teacher_sampled_N is not None:
        taken["teacher"] = tokens.teacher_sampled_N[index]
    if tokens.teacher_support_NK is not None and tokens.teacher_tail_N is not None:
        taken |= {"support_teacher": tokens.teacher_support_NK[index], "tail_teacher": tokens.teacher_tail_N[index]}
    if tokens.ranked_N is not None:  # nothing is named by both there: all of it is tail
        for tail in ("tail_student", "tail_teacher"):
            taken[tail] = taken[tail].masked_fill(tokens.ranked_N[index], 0.0)
    return taken


def _named_by_both(tokens: TokenBatch) -> Tensor:
    """The support without ranked rows, where the teacher's log-probs are of other ids."""
    ids_NK = tokens.support_ids_NK
    return ids_NK if tokens.ranked_N is None else ids_NK.masked_fill(tokens.ranked_N[:, None], -1)


def _row(item: str, arrays: Mapping[str, NDArray[Any]], shown: int, rank: int, top_k: int) -> dict[str, Any]:
    total = len(arrays["student"])
    teacher_T = arrays.get("teacher")
    some = {name: array[:shown] for name, array in arrays.items()}
    named = _named(some, top_k)
    row = {
        "kind": "tokens",
        "id": item,
        "rank": rank,
        "l_teacher": None if teacher_T is None else float(teacher_T.sum(dtype=np.float64)),
        "l_student": float(arrays["student"].sum(dtype=np.float64)),
        "kept_tokens": int(arrays["keep"].sum()),
        "k": named["support_ids"].shape[1],
        "cut": shown < total,
        "keep": pack(some["keep"], "u1"),
        "support_ids": pack(named["support_ids"], "i4"),
    }
    row |= {n: pack(some[n], "f4") for n in ("student", "behaviour", "teacher", "loss") if n in some}
    row |= {n: pack(named[n], "f4") for n in ("tail_student", "tail_teacher") if n in named}
    return row | {n: pack(named[n], "f2") for n in ("support_student", "support_teacher") if n in named}


def _named(arrays: Mapping[str, NDArray[Any]], top_k: int) -> dict[str, NDArray[Any]]:
    """The student's likeliest ids, in falling order, and tails that hold all the rest."""
    ids_TK, student_TK = arrays["support_ids"], arrays["support_student"]
    masked_TK = np.where(ids_TK < 0, -np.inf, student_TK)
    order_TK = np.argsort(-masked_TK, axis=1, kind="stable")
    first, rest = order_TK[:, :top_k], order_TK[:, top_k:]
    named = {"support_ids": np.take_along_axis(ids_TK, first, 1)}
    for side in ("student", "teacher"):
        if f"support_{side}" in arrays:
            support_TK = np.where(ids_TK < 0, -np.inf, arrays[f"support_{side}"])
            named[f"support_{side}"] = np.take_along_axis(support_TK, first, 1)
            unnamed_T = np.exp(np.take_along_axis(support_TK, rest, 1), dtype=np.float64).sum(1)
            with np.errstate(divide="ignore"):  # log 0: nothing is left
                named[f"tail_{side}"] = np.log(unnamed_T + np.exp(arrays[f"tail_{side}"], dtype=np.float64))
    return named
