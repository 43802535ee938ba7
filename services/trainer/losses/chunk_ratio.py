"""The loss against a teacher that splits text otherwise: log-ratios of whole chunks of bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_log_ratio(student_sampled_N: Tensor, teacher_sampled_N: Tensor, first_N: Tensor, rollout_N: Tensor) -> Tensor:
    """A sample of the reverse KL of the aligned chunks, shared by their tokens.

    ``first_N``: ``[N]`` int64, the first token of the chunk that a token is in, below 0 outside all. With
    ``d = sum_chunk (log pi_theta - log pi_T)`` of a chunk of ``n`` tokens and ``d'`` that of the chunk before it in the
    same rollout (0 where there is none), a token's loss has the value ``d / n`` and the gradient
    ``(d + d') * grad log pi_theta(token)``. Over a rollout the value is ``log pi_theta - log pi_T`` of its text, whose
    mean over what the student samples is the reverse KL; the gradient is the policy gradient of that KL, each token
    being credited with what it can change at once.

    Why ``d'``: a token decides whether the teacher's token before it ends there. After ``;`` alone the teacher never
    says a backslash, since it would have said both in one token: the chunk ``;`` has paid for that already, and only
    both chunks together tell. Outside all chunks 0. Sums in float64.
    """
    inside_N = first_N >= 0
    index_N = first_N.clamp(min=0)
    gap_N = torch.where(inside_N, student_sampled_N.detach().double() - teacher_sampled_N.detach().double(), 0.0)
    zeros_N = torch.zeros_like(gap_N)
    ratio_N = zeros_N.index_add(0, index_N, gap_N)[index_N]
    count_N = zeros_N.index_add(0, index_N, inside_N.double())[index_N].clamp(min=1.0)
    before_N = (index_N - 1).clamp(min=0)
    follows_N = (index_N > 0) & inside_N[before_N] & (rollout_N[before_N] == rollout_N[index_N])
    credit_N = ratio_N + torch.where(follows_N, ratio_N[before_N], 0.0)
    dtype = student_sampled_N.dtype
    loss_N = (ratio_N / count_N).to(dtype) + credit_N.to(dtype) * (student_sampled_N - student_sampled_N.detach())
    return torch.where(inside_N, loss_N, torch.zeros_like(loss_N))
