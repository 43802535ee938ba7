"""Token-selective dual distillation (TSD-KD, arXiv 2603.13260), as the paper means it and as its code runs it."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB, TailMode
from rgopd.trainer.losses.divergences import bucket_entropy, generalised_jsd
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import (
    ObjectiveBase,
    ObjectiveOutput,
    SupportOwner,
    TokenBatch,
    student_teacher_buckets,
    token_mean,
)
from rgopd.trainer.objectives.registry import register

_QUANTILE = {"paper": 0.9, "released": 0.1}


@register
class TSDKD(ObjectiveBase):
    """``mean sg[sigma(H_S - H_T)] JSD_0.9  +  mean_{H_S high} H_S  +  0.1 mean_{t < t*} L_rank``.

    Three parts, each a mean of its own: matching, weighted by how much less sure the student is than the teacher;
    the entropy of the student's least sure tokens, pushed down; and, for the opening tokens (those before the
    cumulative share of H_S reaches ``opener``), the likelihood of the teacher's ranking of the student's top
    candidates. ``mode``:

    - ``paper``: Plackett-Luce ``-sum_i (s_i - logsumexp_{j >= i} s_j)``, candidates sorted by the teacher, best
      first; entropy of the top 10% tokens; opener and quantile per rollout.
    - ``released``: what the published code runs. ``logsumexp_{j <= i}``, whose gradient at equal scores pushes the
      teacher's best candidate DOWN (+1.93) and its worst up (-0.90); the entropy of the top 90%; opener and quantile
      over the flattened micro-batch, so this mode depends on how a batch is cut.

    H_S is over the whole vocabulary; the weight compares bucket entropies on both sides (the teacher's full entropy
    too, where the batch has it, against the student's full).
    """

    name: ClassVar[str] = "tsd_kd"
    needs_entropy: ClassVar[bool] = True
    row_local: ClassVar[bool] = False
    owners: ClassVar[frozenset[SupportOwner]] = frozenset({"student"})

    mode: Literal["paper", "released"] = "paper"
    """As the paper means it, or as its published code runs."""
    beta: float = Field(default=0.9, ge=0.0, le=1.0)
    """Of the matching part's JSD, as jsd's."""
    candidates: int = Field(default=10, ge=2)
    """Candidates of the student's that the teacher ranks."""
    opener: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of a response's entropy that its opening tokens hold."""
    entropy_quantile: float | None = Field(default=None, ge=0.0, le=1.0)
    """Tokens with H_S at or above this quantile are regularised; default 0.9 (paper) or 0.1 (released)."""
    entropy_coefficient: float = Field(default=1.0, ge=0.0)
    """Weight of the unsure tokens' entropy."""
    ranking_coefficient: float = Field(default=0.1, ge=0.0)
    """Weight of the ranking part."""
    tail: TailMode = "tail"
    """As distillation.tail."""

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """The three parts; each mean is scaled to the tokens of its segment, so that one denominator serves all."""
        if stats.entropy_N is None:
            raise ValueError("tsd_kd needs the student's entropy: call head_stats with need_entropy=True")
        entropy_N = stats.entropy_N
        student_NB, teacher_NB = student_teacher_buckets(stats, batch, self.tail)
        matching_N = self.confidence(stats, batch, student_NB, teacher_NB) * generalised_jsd(
            student_NB, teacher_NB, self.beta
        )
        segment_N = batch.rollout_N if self.mode == "paper" else torch.zeros_like(batch.rollout_N)
        unsure_N = self.unsure(entropy_N.detach(), segment_N)
        opening_N = self.opening(entropy_N.detach(), segment_N, batch.rollout_N)
        ranking_N = self.ranking(stats, batch)
        loss_N = (
            matching_N
            + self.entropy_coefficient * _own_mean(entropy_N, unsure_N, segment_N)
            + self.ranking_coefficient * _own_mean(ranking_N, opening_N, segment_N)
        )
        metrics = {
            "matching": matching_N.sum(),
            "student_entropy": entropy_N.sum(),
            "ranking": torch.where(opening_N, ranking_N, 0.0).sum(),
            "opening_tokens": opening_N.sum(),
        }
        return token_mean(loss_N, metrics)

    def confidence(self, stats: HeadStats, batch: TokenBatch, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``sg[sigma(H_S - H_T)]``: near 1 where the student is less sure than the teacher."""
        if batch.teacher_entropy_N is not None and stats.entropy_N is not None:
            gap_N = stats.entropy_N - batch.teacher_entropy_N
        else:
            gap_N = bucket_entropy(student_NB) - bucket_entropy(teacher_NB)
        return torch.sigmoid(gap_N).detach()

    def unsure(self, entropy_N: Tensor, segment_N: Tensor) -> Tensor:
        """``[N]`` bool: entropy at or above its quantile within the segment."""
        level = _QUANTILE[self.mode] if self.entropy_quantile is None else self.entropy_quantile
        chosen_N = torch.zeros_like(entropy_N, dtype=torch.bool)
        for rows in _segments(segment_N):
            chosen_N[rows] = entropy_N[rows] >= entropy_N[rows].quantile(level)
        return chosen_N

    def opening(self, entropy_N: Tensor, segment_N: Tensor, rollout_N: Tensor) -> Tensor:
        """``[N]`` bool: the first t* tokens of each rollout, t* the first index of its segment at which the
        cumulative share of entropy reaches ``opener``."""
        first_N = torch.zeros_like(rollout_N)
        for rows in _segments(segment_N):
            running_T = entropy_N[rows].cumsum(0)
            share_T = running_T / running_T[-1].clamp(min=1e-12)  # ends at exactly 1
            first_N[rows] = (share_T >= self.opener).int().argmax()
        position_N = torch.arange(rollout_N.shape[0], device=rollout_N.device)
        start_N = torch.searchsorted(rollout_N.contiguous(), rollout_N)
        return position_N - start_N < first_N

    def ranking(self, stats: HeadStats, batch: TokenBatch) -> Tensor:
        """``[N]`` -log likelihood of the teacher's order of the student's top candidates.

        Log-probs stand for logits: each term is a difference, which shifts of a row leave alone.
        """
        student_NK, teacher_NK = stats.support_logprobs_NK, batch.teacher_support_NK
        assert teacher_NK is not None  # student_teacher_buckets has checked
        top_NC = student_NK.detach().topk(min(self.candidates, student_NK.shape[1]), dim=1).indices
        pad_NC = batch.support_ids_NK.gather(1, top_NC) < 0
        order_NC = teacher_NK.gather(1, top_NC).masked_fill(pad_NC, PAD_LOGPROB).argsort(1, descending=True)
        score_NC = student_NK.gather(1, top_NC.gather(1, order_NC))
        rest_NC = score_NC.flip(1).logcumsumexp(1).flip(1) if self.mode == "paper" else score_NC.logcumsumexp(1)
        return (rest_NC - score_NC).masked_fill(pad_NC.gather(1, order_NC), 0.0).sum(1)


def _segments(segment_N: Tensor) -> list[slice]:
    """The runs of equal ids, as slices."""
    if segment_N.numel() == 0:
        return []
    first_M = (segment_N.diff() != 0).nonzero().squeeze(1) + 1
    edges = [0, *first_M.tolist(), segment_N.numel()]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _own_mean(values_N: Tensor, chosen_N: Tensor, segment_N: Tensor) -> Tensor:
    """Values of the chosen tokens, scaled so that the mean over all of a segment's tokens is the chosen ones' mean."""
    scaled_N = torch.zeros_like(values_N)
    for rows in _segments(segment_N):
        count = chosen_N[rows].sum().clamp(min=1)
        scaled_N[rows] = torch.where(chosen_N[rows], values_N[rows], 0.0) * (rows.stop - rows.start) / count
    return scaled_N
