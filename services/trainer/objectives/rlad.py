"""RL-aware distillation (RLAD, arXiv 2602.22495): GRPO with its ratio anchored to old policy and teacher."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import ObjectiveOutput, TokenBatch, teacher_sampled
from rgopd.trainer.objectives.grpo import GRPO
from rgopd.trainer.objectives.policy import k3, old_logprobs, reference_logprobs, token_weights
from rgopd.trainer.objectives.registry import register


@register
class RLAD(GRPO):
    """``r = pi / (pi_old^alpha pi_T^(1-alpha))`` in the clipped surrogate.

    ``alpha`` 1 is GRPO, 0 anchors to the teacher alone. Selective imitation comes from the clip: a token of a good
    rollout that the student already likes more than the anchor is left alone, one that the teacher likes more is
    pushed harder; with A < 0 the other way round. What it learns comes from the teacher's ratio as well as from the
    reward, so a gate acts on all of it, alone and in a ``weighted_sum``. ``alpha`` has no published default that we
    could verify: 0.5 is ours. A teacher far from the student starts outside the clip range: watch ``clipped_tokens``.
    """

    name: ClassVar[str] = "rlad"
    needs_teacher: ClassVar[bool] = True
    distills: ClassVar[bool] = True

    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the old policy in the anchor, the rest the teacher's; 1: GRPO."""

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """The clipped surrogate, its ratio taken to a mixture of old policy and teacher."""
        logprobs_N = stats.sampled_logprobs_N
        teacher_N = teacher_sampled(batch).to(logprobs_N.dtype)
        anchor_N = self.alpha * old_logprobs(batch) + (1.0 - self.alpha) * teacher_N
        loss_N, clipped_N = self.surrogate(logprobs_N - anchor_N, batch)
        metrics = {"policy_loss": loss_N.sum(), "clipped_tokens": clipped_N.sum()}
        if self.needs_reference:
            loss_N = loss_N + self.reference_kl * k3(logprobs_N, reference_logprobs(batch))
        weight_N, count_N = token_weights(batch, self.normalise, self.max_tokens)
        return ObjectiveOutput(loss_N * weight_N, count_N, {key: value.detach() for key, value in metrics.items()})
