"""KDRL: GRPO and distillation in one loss (arXiv 2506.02208): ``J = J_GRPO - beta * k2(pi_theta, pi_T)``."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import ObjectiveOutput, TokenBatch, teacher_sampled
from rgopd.trainer.objectives.grpo import GRPO
from rgopd.trainer.objectives.policy import Normalise, k2, token_weights
from rgopd.trainer.objectives.registry import register


@register
class KDRL(GRPO):
    """The distillation part is ``loss_N`` and obeys a gate; the GRPO part is ungated and runs over all tokens.

    k2 on the sampled token, differentiated directly, has the reverse KL's expected gradient (k1 would have none from
    the teacher). Variants of the paper: ``anneal`` (beta from 5e-3 to 1e-3 by 5e-5 a step) and ``skip_correct``
    (reward-guided masking: no distillation on rollouts with reward > 0).
    """

    name: ClassVar[str] = "kdrl"
    needs_teacher: ClassVar[bool] = True
    distills: ClassVar[bool] = True
    wholly_gated: ClassVar[bool] = False

    normalise: Normalise = "token"
    """As grpo's; every token the same."""
    beta: float = Field(default=2e-3, ge=0.0)
    """Weight of the distillation part."""
    anneal: bool = False
    """Let beta fall from beta_start to beta_end."""
    beta_start: float = Field(default=5e-3, ge=0.0)
    """With anneal: beta at step 0."""
    beta_end: float = Field(default=1e-3, ge=0.0)
    """With anneal: the least beta."""
    beta_decrement: float = Field(default=5e-5, ge=0.0)
    """With anneal: what beta loses a step."""
    skip_correct: bool = False
    """No distillation on rollouts with reward > 0."""

    def beta_at(self, step: int) -> float:
        """The coefficient at optimiser step ``step``, counted from 0."""
        if not self.anneal:
            return self.beta
        return max(self.beta_end, self.beta_start - self.beta_decrement * step)

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """GRPO in the ungated part, ``beta * k2`` in the gated one."""
        policy = super().token_losses(stats, batch)
        kd_N = k2(stats.sampled_logprobs_N, teacher_sampled(batch).to(stats.sampled_logprobs_N.dtype))
        if self.skip_correct:
            kd_N = torch.where((batch.reward_R > 0)[batch.rollout_N], 0.0, kd_N)
        weight_N, _ = token_weights(batch, self.normalise, self.max_tokens)
        metrics = {**policy.metrics, "teacher_k2": kd_N.sum().detach()}
        return ObjectiveOutput(
            self.beta_at(batch.step) * weight_N * kd_N, policy.count_N, metrics, ungated_loss_N=policy.loss_N
        )
