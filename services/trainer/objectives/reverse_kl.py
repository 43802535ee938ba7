"""Top-K reverse KL with tail (RG-OPD, arXiv 2607.04037, Eq. 4), alone and under the reward gate (Eq. 3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rgopd.trainer.gating.gate import PresetName
from rgopd.trainer.losses.chunk_ratio import chunk_log_ratio
from rgopd.trainer.losses.divergences import reverse_kl
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.losses.ranked import RankCost, RankMerge, ranked_distance
from rgopd.trainer.losses.sampled_ratio import sampled_log_ratio
from rgopd.trainer.objectives.base import Across, BucketObjective, SupportOwner, TokenBatch, teacher_sampled
from rgopd.trainer.objectives.registry import register


@register
class ReverseKL(BucketObjective):
    """``KL(pi_theta || pi_T)`` over the support and its tail, ungated: the paper's baseline.

    Without the tail the loss falls when the student empties its support (mass .9 -> .3: 0 -> -0.33; with the tail
    1.03).
    """

    name: ClassVar[str] = "reverse_kl"
    aligns: ClassVar[bool] = True

    across: Literal["ratio", "mixed", "uld", "hybrid"] = "ratio"
    """Under a teacher with another tokenizer: the log-ratio of every aligned chunk (ratio); the divergence over the
    support where a token maps one to one, and elsewhere the log-ratio (mixed) or the distance of ranked probabilities
    (hybrid); that distance of every chunk (uld). See decisions/154 and 158."""
    ranked_cost: RankCost = "absolute"
    """Of uld and hybrid: sum of absolute differences (ULD), or of q log q/p (MultiLevel-OT's)."""
    ranked_merge: RankMerge = "product"
    """Of uld and hybrid, in a chunk of several tokens: the first token's probabilities times that of the rest (GOLD's
    way), or those of the first alone, the others learning nothing."""
    ranked_weight: float = Field(default=1.0, gt=0.0)
    """Of uld and hybrid: factor of the distance, which is at most 2, beside divergences in nats."""

    @property
    def supports(self) -> frozenset[SupportOwner]:
        """Also none at all: the log-ratio of the sampled token, or of the aligned chunk."""
        return self.owners | ({"none"} if self.across == "ratio" else set())

    @property
    def across_rows(self) -> Across:
        """Ranks, where they are compared."""
        return {"uld": "ranked", "hybrid": "hybrid"}.get(self.across, "mapped")  # type: ignore[return-value]

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``KL(p || q)``: Eq. 4."""
        return reverse_kl(student_NB, teacher_NB)

    def _aligned(self, loss_N: Tensor, stats: HeadStats, batch: TokenBatch, aligned_N: Tensor) -> Tensor:
        if self.across in ("ratio", "mixed"):
            teacher_N = teacher_sampled(batch)
            across_N = chunk_log_ratio(stats.sampled_logprobs_N, teacher_N, aligned_N, batch.rollout_N)
        else:
            across_N = self.ranked_weight * self._ranked(stats, batch, aligned_N)
        divergence_N = torch.zeros_like(aligned_N, dtype=torch.bool)
        if self.across in ("mixed", "hybrid"):
            divergence_N = (batch.support_ids_NK >= 0).any(-1)
            divergence_N = divergence_N if batch.ranked_N is None else divergence_N & ~batch.ranked_N
        if batch.foreign_N is not None:
            divergence_N = divergence_N | ~batch.foreign_N
        return torch.where(divergence_N, loss_N, across_N)

    def _ranked(self, stats: HeadStats, batch: TokenBatch, aligned_N: Tensor) -> Tensor:
        """The distance of ranked probabilities; 0 where none were asked for (teachers of the student's tokenizer)."""
        if batch.ranked_N is None or batch.teacher_rest_N is None:
            return torch.zeros_like(stats.sampled_logprobs_N)
        assert batch.teacher_support_NK is not None, "the divergence has read it"
        assert batch.teacher_tail_N is not None, "the divergence has read it"
        return ranked_distance(
            stats.support_logprobs_NK,
            stats.tail_logprob_N,
            batch.support_ids_NK,
            stats.sampled_logprobs_N,
            batch.teacher_support_NK,
            batch.teacher_tail_N,
            batch.teacher_rest_N,
            aligned_N,
            batch.ranked_N,
            cost=self.ranked_cost,
            merge=self.ranked_merge,
        )

    def _sampled(self, stats: HeadStats, batch: TokenBatch) -> Tensor:
        student_N, teacher_N = stats.sampled_logprobs_N, teacher_sampled(batch)
        alone_N = sampled_log_ratio(student_N, teacher_N)
        if batch.aligned_N is None:
            return alone_N
        across_N = chunk_log_ratio(student_N, teacher_N, batch.aligned_N, batch.rollout_N)
        return across_N if batch.foreign_N is None else torch.where(batch.foreign_N, across_N, alone_N)


@register
class RGOPD(ReverseKL):
    """The paper's method: reverse KL on the tokens that the reward-teacher gate keeps (preset ``paper``)."""

    name: ClassVar[str] = "rg_opd"
    default_gate: ClassVar[PresetName] = "paper"
