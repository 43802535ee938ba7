"""The loss of tokens that the teacher writes otherwise: the log-ratio of a whole chunk of bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_log_ratio(student_sampled_N: Tensor, teacher_sampled_N: Tensor, first_N: Tensor) -> Tensor:
    """A sample of the reverse KL of each aligned chunk, shared by its tokens.

    ``first_N``: ``[N]`` int64, the first token of the chunk that a token is in, below 0 outside all. With
    ``d = sum_chunk (log pi_theta - log pi_T)`` and ``n`` tokens in the chunk, a token's loss has the value ``d / n``
    and the gradient ``d * grad log pi_theta(token)``. Over a chunk the value is ``d``, whose mean over what the student
    samples is ``KL(pi_theta || pi_T)`` of the chunk, and the gradient is the score-function estimate of that KL's
    (policy gradient with reward ``-d``). 0 outside all chunks. Sums in float64.
    """
    inside_N = first_N >= 0
    index_N = first_N.clamp(min=0)
    gap_N = torch.where(inside_N, student_sampled_N.detach().double() - teacher_sampled_N.detach().double(), 0.0)
    zeros_N = torch.zeros_like(gap_N)
    ratio_N = zeros_N.index_add(0, index_N, gap_N)[index_N]
    count_N = zeros_N.index_add(0, index_N, inside_N.double())[index_N].clamp(min=1.0)
    value_N, ratio_N = (ratio_N / count_N).to(student_sampled_N.dtype), ratio_N.to(student_sampled_N.dtype)
    loss_N = value_N + ratio_N * (student_sampled_N - student_sampled_N.detach())
    return torch.where(inside_N, loss_N, torch.zeros_like(loss_N))
