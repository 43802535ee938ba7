"""The support of Eq. 4 by the current student, out of more ids than it needs that the behaviour policy ranked first.

Rollouts that are stale, or that other kernels sampled, bring the sampler's likeliest ids. Where the sampler named a
multiple of K and the teacher scored them, the current student's own top K can be chosen among them in the forward pass
that trains. What it may have missed among all other ids is bounded by their mass together (docs/decisions/111).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB, tail_logprob
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import TokenBatch


def on_current_support(stats: HeadStats, batch: TokenBatch) -> tuple[HeadStats, TokenBatch, dict[str, Tensor]]:
    """Student and teacher at the ``batch.current_k`` ids that the student finds likeliest among ``support_ids_NK``.

    The teacher's mass on the ids that are left out goes to its tail; the student's tail is that of the chosen ids, with
    its gradient. The metrics are sums over rows. ``support_outside``: the student's mass outside the candidates, and so
    the most that an id of its own top K can hold that is missed. ``support_exact``: none is, provably, since the least
    of the chosen holds at least that mass; sufficient, and rare where distributions are peaked. ``support_overlap``:
    the share of the chosen that are among the sampler's own top K. Unchanged and without metrics where
    ``current_k`` is 0, or without a teacher's support.
    """
    k, width = batch.current_k, batch.support_ids_NK.shape[1]
    if not k or batch.teacher_support_NK is None or batch.teacher_tail_N is None:
        return stats, batch, {}
    pad_NK = batch.support_ids_NK < 0
    candidates_NK = stats.support_logprobs_NK.detach().masked_fill(pad_NK, -torch.inf)
    chosen_NK = candidates_NK.topk(min(k, width), dim=1).indices
    student_NK = stats.support_logprobs_NK.gather(1, chosen_NK)
    ids_NK = batch.support_ids_NK.gather(1, chosen_NK)
    places_NK = chosen_NK
    if batch.ranked_N is not None:  # there the teacher's are its own, by rank
        first_NK = torch.arange(chosen_NK.shape[1], device=chosen_NK.device).expand_as(chosen_NK)
        places_NK = torch.where(batch.ranked_N[:, None], first_NK, chosen_NK)
        pad_NK = pad_NK & ~batch.ranked_N[:, None]
    left_out_NK = batch.teacher_support_NK.masked_fill(pad_NK, -torch.inf).scatter(1, places_NK, -torch.inf)
    tail_N = torch.logaddexp(batch.teacher_tail_N, left_out_NK.logsumexp(dim=1))
    narrowed = dataclasses.replace(
        batch,
        support_ids_NK=ids_NK,
        teacher_support_NK=batch.teacher_support_NK.gather(1, places_NK),
        teacher_tail_N=tail_N,
    )
    least_N = student_NK.detach().masked_fill(ids_NK < 0, PAD_LOGPROB).amin(dim=1)
    real_N = (ids_NK >= 0).sum(dim=1).clamp(min=1)
    metrics = {
        "support_outside": stats.tail_logprob_N.detach().exp().sum(),
        "support_exact": (least_N >= stats.tail_logprob_N.detach()).sum(),
        "support_overlap": (((chosen_NK < k) & (ids_NK >= 0)).sum(dim=1) / real_N).sum(),
    }
    own = dataclasses.replace(stats, support_logprobs_NK=student_NK, tail_logprob_N=tail_logprob(student_NK))
    return own, narrowed, metrics
