"""MiniLLM (arXiv 2306.08543): sequence-level reverse KL by policy gradient, with its single-step decomposition."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from rgopd.trainer.losses.buckets import TailMode
from rgopd.trainer.losses.divergences import reverse_kl
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import (
    ObjectiveBase,
    ObjectiveOutput,
    SupportOwner,
    TokenBatch,
    importance_weight,
    student_teacher_buckets,
    teacher_sampled,
    token_mean,
)
from rgopd.trainer.objectives.policy import clipped_surrogate, discounted_suffix_sum, old_logprobs
from rgopd.trainer.objectives.registry import register


@register
class MiniLLM(ObjectiveBase):
    """The token reward is ``r_t = log pi_T - log pi`` of the sampled token; the return of token t is what follows.

    ``single_step``: the expectation of r_t itself is taken exactly, as the top-K reverse KL at t (the paper's
    variance reduction), and the return starts at t+1; without it the return starts at t and no support is needed.
    ``length_normalise``: the return is the mean of its tokens' rewards, else long answers win by brevity of their
    rest. ``gamma`` 1 is the paper's; 0 with ``single_step`` is reverse KL. The teacher-mixed sampling of the paper is
    a sampler's matter; its weights are ``pi / behaviour`` here.
    """

    name: ClassVar[str] = "minillm"
    row_local: ClassVar[bool] = False

    gamma: float = Field(default=1.0, ge=0.0, le=1.0)
    """Discount of later tokens' rewards."""
    single_step: bool = True
    """Take the token's own reward as the exact reverse KL over the support."""
    length_normalise: bool = True
    """The return is a mean of rewards, not a sum."""
    clip: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The ratio is clipped to 1 plus and minus this."""
    tail: TailMode = "tail"
    """As distillation.tail."""

    @property
    def supports(self) -> frozenset[SupportOwner]:
        """Also none at all where the reward is the sampled token's alone."""
        return self.owners | (set() if self.single_step else {"none"})

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """The clipped surrogate of the returns, and with ``single_step`` the reverse KL of each token."""
        logprobs_N = stats.sampled_logprobs_N
        reward_N = (teacher_sampled(batch).to(logprobs_N.dtype) - logprobs_N).detach()
        return_N = self.returns(reward_N, batch.rollout_N)
        loss_N, clipped_N = clipped_surrogate(logprobs_N - old_logprobs(batch), return_N, self.clip, self.clip)
        metrics = {"return": return_N.sum(), "clipped_tokens": clipped_N.sum()}
        if self.single_step:
            kl_N = reverse_kl(*student_teacher_buckets(stats, batch, self.tail))
            weight_N = importance_weight(stats, batch, 1.0 + self.clip)
            loss_N = loss_N + (kl_N if weight_N is None else kl_N * weight_N)
            metrics["reverse_kl"] = kl_N.sum()
        return token_mean(loss_N, metrics)

    def returns(self, reward_N: Tensor, rollout_N: Tensor) -> Tensor:
        """``[N]`` discounted sum (or weighted mean) of the rewards from t on, or from t+1 with ``single_step``."""
        total_N = discounted_suffix_sum(reward_N, rollout_N, self.gamma)
        span_N = discounted_suffix_sum(torch.ones_like(reward_N), rollout_N, self.gamma)
        if self.single_step:
            total_N, span_N = total_N - reward_N, span_N - 1.0
        return total_N / span_N.clamp(min=1e-6) if self.length_normalise else total_N
