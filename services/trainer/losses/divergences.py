"""Divergences between two sets of bucket log-probs, per token; ``p`` is the student, ``q`` the teacher.

All take ``[N, B]`` from ``bucket_logprobs`` and return ``[N]`` in nats. Gradients flow through every occurrence of
``p``. An empty bucket holds ``PAD_LOGPROB`` on both sides and adds exactly 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reverse_kl(student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
    """KL(p || q) = sum_b p_b (log p_b - log q_b): Eq. 4 when the last bucket is the tail."""
    return (student_NB.exp() * (student_NB - teacher_NB)).sum(-1)


def forward_kl(student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
    """KL(q || p) = sum_b q_b (log q_b - log p_b)."""
    return (teacher_NB.exp() * (teacher_NB - student_NB)).sum(-1)


def generalised_jsd(student_NB: Tensor, teacher_NB: Tensor, beta: float) -> Tensor:
    """GKD's ``beta KL(q || m) + (1 - beta) KL(p || m)``, ``m = beta q + (1 - beta) p`` (arXiv 2306.13649, Eq. 1).

    The mixture form tends to 0 at both ends, so they are what its rescaled limits are: beta = 0 is forward KL,
    beta = 1 is reverse KL.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in [0, 1], got {beta}")
    if beta == 0.0:
        return forward_kl(student_NB, teacher_NB)
    if beta == 1.0:
        return reverse_kl(student_NB, teacher_NB)
    mixture_NB = torch.logaddexp(teacher_NB + math.log(beta), student_NB + math.log1p(-beta))
    return beta * forward_kl(mixture_NB, teacher_NB) + (1 - beta) * reverse_kl(student_NB, mixture_NB)


def bucket_entropy(logprobs_NB: Tensor) -> Tensor:
    """-sum_b p_b log p_b: a lower bound of the full entropy, which the tail bucket hides the inside of."""
    return -(logprobs_NB.exp() * logprobs_NB).sum(-1)
