"""Top-K distributions as K+1 buckets: the support's tokens and one bucket for the rest (paper Appendix A.2, Eq. 4)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

TailMode = Literal["tail", "none", "renormalise"]

PAD_LOGPROB = -1.0e4
"""The log-prob of a padded support entry (id -1): exp() of it is exactly 0 in float32 and float64, yet it is finite,
so that ``p * (log p - log q)`` is 0 * 0 and not 0 * inf = NaN."""

TAIL_CLAMP = -1e-7
"""logsumexp over the support is kept at or below this: the float32 log-probs it is made of are no more exact, and
log(0) must not appear. It floors the tail's probability at 1e-7 on the student's and the teacher's side alike."""

MIN_TAIL_LOGPROB = math.log(-math.expm1(TAIL_CLAMP))


def tail_logprob(support_logprobs_NK: Tensor) -> Tensor:
    """``log(1 - sum_k exp(support_logprobs))`` as ``log(-expm1(min(logsumexp, -1e-7)))``, per row, differentiable.

    float32 or wider (a bfloat16 tail of 1e-4 reads as 5.8e-4). The gradient reaches every support log-prob with
    weight ``-p_k / p_tail``; it stops only where the clamp binds, i.e. where the tail holds less than 1e-7 and its
    share in Eq. 4 is of that size too. K = 0 or an all-padding row gives 0: everything is tail.
    """
    if support_logprobs_NK.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the tail needs float32 or float64 log-probs, got {support_logprobs_NK.dtype}")
    log_mass_N = torch.logsumexp(support_logprobs_NK, dim=-1)
    return torch.log(-torch.expm1(log_mass_N.clamp(max=TAIL_CLAMP)))


def bucket_logprobs(support_logprobs_NK: Tensor, tail_N: Tensor, support_ids_NK: Tensor, mode: TailMode) -> Tensor:
    """Log-probs of the buckets a divergence sums over: ``[N, K+1]`` for ``tail``, ``[N, K]`` otherwise.

    ``tail``: support and tail bucket, which sum to 1. ``none``: the support alone, unnormalised (Table 2's no-tail;
    reverse KL over it falls when mass leaves the support). ``renormalise``: the support scaled to sum to 1 (what the
    released code calls no-tail; identically zero at K = 1). Padding (id -1) holds ``PAD_LOGPROB`` on both sides
    whatever the caller sent, and gets no gradient.
    """
    pad_NK = support_ids_NK < 0
    buckets_NK = support_logprobs_NK.masked_fill(pad_NK, PAD_LOGPROB)
    match mode:
        case "tail":
            return torch.cat([buckets_NK, tail_N.clamp(min=MIN_TAIL_LOGPROB)[:, None]], dim=-1)
        case "none":
            return buckets_NK
        case "renormalise":
            mass_N1 = torch.logsumexp(buckets_NK, dim=-1, keepdim=True)
            return (buckets_NK - mass_N1).masked_fill(pad_NK, PAD_LOGPROB)
    raise ValueError(f"unknown tail mode {mode!r}; known: tail, none, renormalise")
