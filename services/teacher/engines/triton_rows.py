"""Scores out of rows of logits with one read of them, as a Triton kernel; `rows.score_rows` takes seven passes.

Bytes a row of V float32 logits: 4V read here, after the 4V that the head's product writes; PyTorch's operators move
28V after them, 36V at a temperature other than 1. Needs a GPU, or TRITON_INTERPRET=1.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rgopd.common.head import AfterHead
from rgopd.teacher.engines.rows import RowScores, apply_after, own_ids
from rgopd.teacher.items import PAD_ID, PAD_LOGPROB, TAIL_FLOOR, Scoring

_BLOCK = 4096
"""Columns that one program holds at once."""


def score_rows(
    logits_RV: Tensor,
    sampled_ids_R: Tensor,
    support_ids_RK: Tensor | None,
    scoring: Scoring,
    vocab_size: int,
    after: AfterHead = AfterHead(),
) -> RowScores:
    """As `rows.score_rows`. The logits at the support are overwritten by -inf.

    The kernel sums what is left when the support is taken out, so the tail needs no subtraction, and the normaliser is
    that sum plus K terms. The top K of support "teacher" are `torch.topk`'s, over the logits as the head gave them:
    what follows the head rises with its argument.
    """
    logits_RV = logits_RV[:, :vocab_size]
    inverse_temperature = 1.0 / scoring.temperature
    sampled_R1 = logits_RV.gather(1, sampled_ids_R[:, None])
    if scoring.support == "teacher":
        raw_RK, ids_RK = logits_RV.topk(scoring.k, dim=-1)
    else:
        ids_RK = sampled_ids_R.new_empty(len(sampled_ids_R), 0) if support_ids_RK is None else support_ids_RK
        ids_RK = own_ids(logits_RV, ids_RK) if scoring.own_rows else ids_RK
        raw_RK = logits_RV.gather(1, ids_RK.clamp(min=0))
    real_RK = ids_RK != PAD_ID
    if ids_RK.shape[1]:
        _take_out_(logits_RV, ids_RK, real_RK)
    largest_R, total_R = _sum_exp(logits_RV, inverse_temperature, after)
    sampled_R1, topk_RK = (apply_after(x, after).mul_(inverse_temperature) for x in (sampled_R1, raw_RK))
    topk_RK = topk_RK.masked_fill(~real_RK, -torch.inf)
    # log p = (x - largest) - log(sum), never x - logsumexp, whose rounding would drown a small tail.
    top_R1 = torch.cat([largest_R[:, None], topk_RK], dim=1).amax(1, keepdim=True)
    rest_R = total_R * (largest_R - top_R1[:, 0]).exp()
    log_total_R1 = (rest_R + (topk_RK - top_R1).exp().sum(1)).log()[:, None]
    sampled_R = (sampled_R1 - top_R1 - log_total_R1)[:, 0].clamp(min=PAD_LOGPROB)
    topk_RK = (topk_RK - top_R1 - log_total_R1).clamp(min=PAD_LOGPROB)
    tail_R = log_total_R1[:, 0]
    if ids_RK.shape[1]:
        tail_R = (total_R.log() + largest_R - top_R1[:, 0] - log_total_R1[:, 0]).clamp(min=TAIL_FLOOR)
    return RowScores(sampled_R, ids_RK, topk_RK, tail_R)


def _take_out_(logits_RV: Tensor, ids_RK: Tensor, real_RK: Tensor) -> None:
    """-inf at the support. A padded id is pointed at its row's first real one, a row of pads alone is not changed."""
    first_R1 = ids_RK.gather(1, real_RK.int().argmax(1, keepdim=True)).clamp(min=0)
    kept_R1 = torch.where(real_RK.any(1, keepdim=True), -torch.inf, logits_RV.gather(1, first_R1))
    logits_RV.scatter_(1, torch.where(real_RK, ids_RK, first_R1), kept_R1.expand_as(ids_RK))


def _sum_exp(logits_RV: Tensor, inverse_temperature: float, after: AfterHead) -> tuple[Tensor, Tensor]:
    """Per row the largest scaled logit m and sum exp(x - m), without those of -inf; (-1e30, 0) where all are."""
    rows, vocab = logits_RV.shape
    largest_R, total_R = logits_RV.new_empty(rows), logits_RV.new_empty(rows)
    _sum_exp_kernel[(rows,)](
        logits_RV,
        largest_R,
        total_R,
        logits_RV.stride(0),
        vocab,
        after.scale if not after.soft_cap else after.scale / after.soft_cap,
        after.soft_cap,
        inverse_temperature,
        HAS_CAP=bool(after.soft_cap),
        BLOCK=min(_BLOCK, triton.next_power_of_2(vocab)),
        num_warps=8,
    )
    return largest_R, total_R


@triton.jit
def _sum_exp_kernel(
    logits,
    largest_of,
    total_of,
    stride,
    vocab,
    scale,
    soft_cap,
    inverse_temperature,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Running maximum and sum of a row (Milakov & Gimelshein, arXiv 1805.02867)."""
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * stride
    largest = -1e30
    total = 0.0
    for first in range(0, vocab, BLOCK):
        column = first + tl.arange(0, BLOCK)
        raw = tl.load(row_logits + column, mask=column < vocab, other=float("-inf"))
        x = raw * scale
        if HAS_CAP:
            x = soft_cap * (2.0 * tl.sigmoid(2.0 * x) - 1.0)  # soft_cap * tanh(x); the scale holds 1 / soft_cap
        x = tl.where(raw == float("-inf"), raw, x * inverse_temperature)
        new_largest = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - new_largest) + tl.sum(tl.exp(x - new_largest), 0)
        largest = new_largest
    tl.store(largest_of + row, largest)
    tl.store(total_of + row, total)
