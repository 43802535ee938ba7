"""The loss between distributions over different vocabularies: probabilities compared by their rank, not by token.

ULD (arXiv 2402.12030), its logarithmic cost from MultiLevel-OT (arXiv 2412.14528), chunks of several tokens as in TRL's
GOLD. docs/objectives.md says what of it is exact.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rgopd.trainer.losses.buckets import bucket_logprobs

RankCost = Literal["absolute", "logarithmic"]
RankMerge = Literal["product", "first"]


def ranked_distance(
    student_support_NK: Tensor,
    student_tail_N: Tensor,
    support_ids_NK: Tensor,
    student_sampled_N: Tensor,
    teacher_support_NK: Tensor,
    teacher_tail_N: Tensor,
    teacher_rest_N: Tensor,
    first_N: Tensor,
    ranked_N: Tensor,
    *,
    cost: RankCost = "absolute",
    merge: RankMerge = "product",
) -> Tensor:
    """``[N]``: the distance of each chunk that begins at a row of ``ranked_N``, in equal parts on its tokens, else 0.

    At such a row both sides have seen the same bytes. With ``p_(1) >= .. >= p_(K)`` the student's probabilities of its
    support in falling order and ``p_0`` the rest of its mass, ``q`` the teacher's, and ``P = c p``, ``Q = c' q``:

    - ``absolute``: ``sum_k |P_(k) - Q_(k)| + |P_0 - Q_0|``, at most 2;
    - ``logarithmic``: ``sum_k Q log(Q / P) - Q + P`` over the same K+1 buckets, in nats, 0 where they are equal.

    ``c``: ``product``: probability of the chunk's other tokens as they were sampled, ``teacher_rest_N`` being the
    log of the teacher's; ``first``: 1 on both sides. A padded id (-1) is an empty bucket of the last ranks. Gradients
    flow through every ``p`` and ``c``; ranks are constants. ``first_N``: as ``TokenBatch.aligned_N``. The
    chunk's sums in float64.
    """
    rows_M = ranked_N.nonzero().squeeze(1)
    dtype = student_sampled_N.dtype
    inside_N = first_N >= 0
    index_N = first_N.clamp(min=0)
    zeros_N = torch.zeros_like(student_sampled_N, dtype=torch.float64)
    size_N = zeros_N.index_add(0, index_N, inside_N.double())
    ids_MK = support_ids_NK[rows_M]
    ranks_MK = torch.zeros_like(ids_MK)  # no teacher id is padding: it sends a floor where it has no more
    student_MB = bucket_logprobs(student_support_NK[rows_M], student_tail_N[rows_M], ids_MK, "tail")
    teacher_MB = bucket_logprobs(
        teacher_support_NK[rows_M].to(dtype), teacher_tail_N[rows_M].to(dtype), ranks_MK, "tail"
    )
    student_MB, teacher_MB = _ranked(student_MB), _ranked(teacher_MB)
    if merge == "product":
        within_N = torch.where(inside_N, student_sampled_N.double(), 0.0)
        total_N = zeros_N.index_add(0, index_N, within_N)
        rest_M = (total_N[rows_M] - student_sampled_N[rows_M].double()).to(dtype)
        student_MB = student_MB + rest_M[:, None]
        teacher_MB = teacher_MB + teacher_rest_N[rows_M].to(dtype)[:, None]
    student_p_MB, teacher_p_MB = student_MB.exp(), teacher_MB.exp()
    if cost == "absolute":
        distance_M = (student_p_MB - teacher_p_MB).abs().sum(-1)
    else:
        distance_M = (teacher_p_MB * (teacher_MB - student_MB) - teacher_p_MB + student_p_MB).sum(-1)
    share_M = distance_M / size_N[rows_M].clamp(min=1.0).to(dtype)
    spread_N = torch.zeros_like(student_sampled_N).index_put((rows_M,), share_M)
    return torch.where(inside_N, spread_N[index_N], torch.zeros_like(student_sampled_N))


def _ranked(buckets_MB: Tensor) -> Tensor:
    """The support's buckets in falling order; the tail stays last."""
    support_MK, tail_M1 = buckets_MB[:, :-1], buckets_MB[:, -1:]
    return torch.cat([support_MK.sort(dim=-1, descending=True).values, tail_M1], dim=-1)
