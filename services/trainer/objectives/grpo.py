"""GRPO (arXiv 2402.03300) with the switches of Dr.GRPO (2503.20783), DAPO (2503.14476) and GSPO (2507.18071)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import ObjectiveBase, ObjectiveOutput, SupportOwner, TokenBatch
from rgopd.trainer.objectives.policy import (
    Normalise,
    clipped_surrogate,
    k3,
    old_logprobs,
    reference_logprobs,
    segment_mean,
    token_weights,
)
from rgopd.trainer.objectives.registry import register


@register
class GRPO(ObjectiveBase):
    """``-min(r A, clip(r) A) + reference_kl * k3(pi, pi_ref)``; no teacher.

    Dr.GRPO: ``normalise="constant"`` with the run's ``max_tokens``, and advantages without division by the standard
    deviation (``group_advantage(scale_by_std=False)``). DAPO: ``normalise="token"``, ``clip_high`` 0.28. GSPO:
    ``ratio="sequence"``, ``clip_low`` 3e-4, ``clip_high`` 4e-4. On policy with one step a batch the ratio is 1 and no
    clip ever binds.
    """

    name: ClassVar[str] = "grpo"
    needs_teacher: ClassVar[bool] = False
    distills: ClassVar[bool] = False
    row_local: ClassVar[bool] = False
    owners: ClassVar[frozenset[SupportOwner]] = frozenset({"student", "teacher", "none"})

    clip_low: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The ratio is clipped below 1 minus this."""
    clip_high: float = Field(default=0.2, ge=0.0)
    """The ratio is clipped above 1 plus this."""
    ratio: Literal["token", "sequence"] = "token"
    """Of each token, or the geometric mean over a response (GSPO)."""
    normalise: Normalise = "sequence"
    """What a token weighs: 1/T of its response, the same for all, or 1/max_tokens."""
    max_tokens: int = Field(default=1024, ge=1)
    """Denominator of ``constant``: the run's longest response."""
    reference_kl: float = Field(default=0.0, ge=0.0)
    """Coefficient of the KL to the reference policy; published 0.04, most later recipes 0."""

    @property
    def needs_reference(self) -> bool:
        """With a KL to the reference policy."""
        return self.reference_kl > 0.0

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """The clipped surrogate and, with a coefficient, k3 to the reference, weighted by ``normalise``."""
        logprobs_N = stats.sampled_logprobs_N
        loss_N, clipped_N = self.surrogate(logprobs_N - old_logprobs(batch), batch)
        metrics = {"policy_loss": loss_N.sum(), "clipped_tokens": clipped_N.sum()}
        if self.needs_reference:
            kl_N = k3(logprobs_N, reference_logprobs(batch))
            loss_N = loss_N + self.reference_kl * kl_N
            metrics["reference_kl"] = kl_N.sum()
        weight_N, count_N = token_weights(batch, self.normalise, self.max_tokens)
        return ObjectiveOutput(loss_N * weight_N, count_N, {key: value.detach() for key, value in metrics.items()})

    def surrogate(self, log_ratio_N: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Per-token loss and where it was clipped. GSPO gives every token its rollout's ratio, the geometric mean."""
        if self.ratio == "sequence":
            log_ratio_N = segment_mean(log_ratio_N, batch)
        advantage_N = batch.advantage_R.to(log_ratio_N.dtype)[batch.rollout_N]
        return clipped_surrogate(log_ratio_N, advantage_N, self.clip_low, self.clip_high)
