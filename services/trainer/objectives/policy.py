"""Pieces of the policy-gradient objectives: clipped surrogate, token weights, KL estimators, segment sums."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rgopd.trainer.objectives.base import TokenBatch

Normalise = Literal["token", "sequence", "constant"]


def old_logprobs(batch: TokenBatch) -> Tensor:
    """``[N]`` of the policy that the ratio is taken against: the proximal one where given, else the behaviour's."""
    return batch.behaviour_logprobs_N if batch.proximal_logprobs_N is None else batch.proximal_logprobs_N


def clipped_surrogate(log_ratio_N: Tensor, advantage_N: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's ``-min(r A, clip(r, 1 - low, 1 + high) A)`` and where the clip took its gradient away (bool)."""
    ratio_N = log_ratio_N.clamp(-20.0, 20.0).exp()
    free_N = ratio_N * advantage_N
    clipped_N = ratio_N.clamp(1.0 - low, 1.0 + high) * advantage_N
    return -torch.minimum(free_N, clipped_N), clipped_N < free_N


def token_weights(batch: TokenBatch, normalise: Normalise, max_tokens: int) -> tuple[Tensor, Tensor]:
    """``(weight_N, count_N)``: a token's share in numerator and denominator of the step's ratio.

    ``token``: 1 and 1 (mean over all tokens; DAPO, Eq. 3). ``sequence``: 1/T_i and 1/T_i (mean of rollout means;
    GRPO). ``constant``: 1 and max_tokens/T_i, so that the denominator is rollouts x max_tokens whatever the lengths
    (Dr.GRPO: no bias towards long wrong answers).
    """
    one_N = torch.ones_like(batch.behaviour_logprobs_N)
    if normalise == "token":
        return one_N, one_N
    length_N = batch.tokens_R().to(one_N.dtype)[batch.rollout_N]
    if normalise == "sequence":
        return 1.0 / length_N, 1.0 / length_N
    return one_N, max_tokens / length_N


def k3(logprobs_N: Tensor, other_N: Tensor) -> Tensor:
    """``exp(d) - d - 1`` with ``d = log other - log pi``: GRPO's estimate of KL(pi || other), never negative."""
    gap_N = (other_N - logprobs_N).clamp(-20.0, 20.0)
    return gap_N.exp() - gap_N - 1.0


def k2(logprobs_N: Tensor, other_N: Tensor) -> Tensor:
    """``(log other - log pi)^2 / 2``: differentiated directly, its expected gradient is the reverse KL's."""
    return 0.5 * (other_N - logprobs_N).square()


def reference_logprobs(batch: TokenBatch) -> Tensor:
    """``[N]``; raises ValueError where the batch lacks the reference policy's log-probs."""
    if batch.reference_logprobs_N is None:
        raise ValueError("a reference KL needs reference_logprobs_N; set its coefficient to 0 or keep a reference")
    return batch.reference_logprobs_N


def segment_mean(values_N: Tensor, batch: TokenBatch) -> Tensor:
    """``[N]`` mean over the token's rollout, differentiable."""
    sums_R = values_N.new_zeros(batch.advantage_R.shape[0]).index_add(0, batch.rollout_N, values_N)
    return (sums_R / batch.tokens_R().to(values_N.dtype).clamp(min=1))[batch.rollout_N]


def discounted_suffix_sum(values_N: Tensor, rollout_N: Tensor, gamma: float) -> Tensor:
    """``sum_{u >= t} gamma^(u-t) values_u`` within each rollout, in log2(longest) doubling steps.

    After step k the sum spans 2^k tokens; adding the one 2^k further on, where it belongs to the same rollout (the
    ids are sorted), doubles the span.
    """
    total_N, span = values_N.clone(), 1
    longest = int(torch.bincount(rollout_N).max()) if rollout_N.numel() else 0
    while span < longest:
        same_M = rollout_N[:-span] == rollout_N[span:]
        ahead_M = torch.where(same_M, total_N[span:], 0.0) * gamma**span
        total_N = torch.cat([total_N[:-span] + ahead_M, total_N[-span:]])
        span *= 2
    return total_N
