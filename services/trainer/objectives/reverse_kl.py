"""Top-K reverse KL with tail (RG-OPD, arXiv 2607.04037, Eq. 4), alone and under the reward gate (Eq. 3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from rgopd.trainer.gating.gate import PresetName
from rgopd.trainer.losses.chunk_ratio import chunk_log_ratio
from rgopd.trainer.losses.divergences import reverse_kl
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.losses.sampled_ratio import sampled_log_ratio
from rgopd.trainer.objectives.base import BucketObjective, SupportOwner, TokenBatch, teacher_sampled
from rgopd.trainer.objectives.registry import register


@register
class ReverseKL(BucketObjective):
    """``KL(pi_theta || pi_T)`` over the support and its tail, ungated: the paper's baseline.

    Without the tail the loss falls when the student empties its support (mass .9 -> .3: 0 -> -0.33; with the tail
    1.03).
    """

    name: ClassVar[str] = "reverse_kl"
    aligns: ClassVar[bool] = True

    across: Literal["ratio", "mixed"] = "ratio"
    """Under a teacher with another tokenizer: the log-ratio of every aligned chunk, or (mixed) the divergence over the
    support where a token maps one to one; see decisions/154."""

    @property
    def supports(self) -> frozenset[SupportOwner]:
        """Also none at all: the log-ratio of the sampled token, or of the aligned chunk."""
        return self.owners | ({"none"} if self.across == "ratio" else set())

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``KL(p || q)``: Eq. 4."""
        return reverse_kl(student_NB, teacher_NB)

    def _aligned(self, loss_N: Tensor, stats: HeadStats, batch: TokenBatch, aligned_N: Tensor) -> Tensor:
        teacher_N = teacher_sampled(batch)
        ratio_N = chunk_log_ratio(stats.sampled_logprobs_N, teacher_N, aligned_N, batch.rollout_N)
        if self.across == "ratio":
            return ratio_N
        return torch.where((batch.support_ids_NK >= 0).any(-1), loss_N, ratio_N)

    def _sampled(self, stats: HeadStats, batch: TokenBatch) -> Tensor:
        student_N, teacher_N = stats.sampled_logprobs_N, teacher_sampled(batch)
        if batch.aligned_N is not None:
            return chunk_log_ratio(student_N, teacher_N, batch.aligned_N, batch.rollout_N)
        return sampled_log_ratio(student_N, teacher_N)


@register
class RGOPD(ReverseKL):
    """The paper's method: reverse KL on the tokens that the reward-teacher gate keeps (preset ``paper``)."""

    name: ClassVar[str] = "rg_opd"
    default_gate: ClassVar[PresetName] = "paper"
