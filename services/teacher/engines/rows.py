"""Scores out of rows of logits: the passes over [rows, vocabulary] in PyTorch's operators, and who does them where."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from rgopd.common.head import AfterHead
from rgopd.teacher.items import OWN_ID, PAD_ID, PAD_LOGPROB, TAIL_FLOOR, Scoring

log = logging.getLogger(__name__)

Kernels = Literal["auto", "torch", "triton"]


class RowScores(NamedTuple):
    """Scores of R response rows, float32 (ids int64), on the logits' device."""

    sampled_R: Tensor
    ids_RK: Tensor
    topk_RK: Tensor
    tail_R: Tensor


def score_rows(
    logits_RV: Tensor,
    sampled_ids_R: Tensor,
    support_ids_RK: Tensor | None,
    scoring: Scoring,
    vocab_size: int,
    after: AfterHead = AfterHead(),
) -> RowScores:
    """Exact log-probs at the sampled and the support ids, and the log of the mass outside the support.

    Args:
        logits_RV: float32, overwritten (the buffer is reused in place: it is the peak of the whole engine).
        sampled_ids_R: int64, below vocab_size.
        support_ids_RK: int64 with PAD_ID allowed, and whole rows of OWN_ID where `scoring.own_rows`; None with support
            "teacher" or "none".
        scoring: support kind, k and temperature.
        vocab_size: ids from here on are masked before the softmax.
        after: what the architecture does to its logits after the head, where that is still to be done.

    The tail is summed over the complement rather than taken as 1 - sum: that keeps its relative precision
    when the support holds nearly everything.
    """
    logits_RV = apply_after(logits_RV[:, :vocab_size], after)
    if scoring.temperature != 1.0:
        logits_RV.div_(scoring.temperature)
    logits_RV.sub_(logits_RV.amax(-1, keepdim=True))
    sampled_R = logits_RV.gather(1, sampled_ids_R[:, None])[:, 0]
    if scoring.support == "teacher":
        topk_RK, ids_RK = logits_RV.topk(scoring.k, dim=-1)
    elif support_ids_RK is not None:
        ids_RK = own_ids(logits_RV, support_ids_RK) if scoring.own_rows else support_ids_RK
        topk_RK = logits_RV.gather(1, ids_RK.clamp(min=0))
    else:
        ids_RK = sampled_ids_R.new_empty((len(sampled_ids_R), 0))
        topk_RK = logits_RV.new_empty((len(sampled_ids_R), 0))
    weights_RV = logits_RV.exp_()
    total_R = weights_RV.sum(-1)
    log_total_R = total_R.log()
    sampled_R = (sampled_R - log_total_R).clamp(min=PAD_LOGPROB)
    topk_RK = (topk_RK - log_total_R[:, None]).clamp(min=PAD_LOGPROB)
    topk_RK = topk_RK.masked_fill(ids_RK == PAD_ID, PAD_LOGPROB)
    tail_R = log_total_R
    if ids_RK.shape[1]:
        # A padded id is pointed at its row's first real id, which is zeroed anyway; a row of nothing but
        # pads keeps its whole mass in the tail.
        real_RK = ids_RK != PAD_ID
        first_R1 = ids_RK.gather(1, real_RK.int().argmax(1, keepdim=True)).clamp(min=0)
        keep_R1 = torch.where(real_RK.any(1, keepdim=True), 0.0, weights_RV.gather(1, first_R1))
        index_RK = torch.where(real_RK, ids_RK, first_R1)
        weights_RV.scatter_(1, index_RK, keep_R1.expand_as(index_RK))
        tail_R = (weights_RV.sum(-1).log() - log_total_R).clamp(min=TAIL_FLOOR)
    return RowScores(sampled_R, ids_RK, topk_RK, tail_R)


def own_ids(logits_RV: Tensor, ids_RK: Tensor) -> Tensor:
    """The support with each row of OWN_ID replaced by the row's likeliest ids, best first."""
    own_R = (ids_RK[:, 0] == OWN_ID).nonzero().squeeze(1)
    return ids_RK.index_copy(0, own_R, logits_RV[own_R].topk(ids_RK.shape[1], dim=-1).indices)


def apply_after(logits: Tensor, after: AfterHead) -> Tensor:
    """What the architecture does to its logits after the head, in place."""
    if after.scale != 1.0:
        logits.mul_(after.scale)
    if after.soft_cap:
        logits.div_(after.soft_cap).tanh_().mul_(after.soft_cap)
    return logits


def head_float32(head: nn.Module, hidden_RH: Tensor, block: int = 16_384) -> Tensor:
    """float32 logits [R, V], also of a bfloat16 or float16 head.

    Logits rounded to bfloat16 are off by up to 0.06 at 16; the products are the same numbers in float32, so only
    the sum has to be kept wide. Off CUDA, and before torch 2.8, that takes a float32 copy of `block` rows of the head
    at a time.
    """
    weight = getattr(head, "weight", None)
    if type(head) is not nn.Linear or weight is None or weight.dtype == torch.float32:
        logits: Tensor = head(hidden_RH)
        return logits.float()
    if weight.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):
        logits_RV = torch.mm(hidden_RH, weight.t(), out_dtype=torch.float32)
    else:
        logits_RV = hidden_RH.new_empty((len(hidden_RH), len(weight)), dtype=torch.float32)
        wide_RH = hidden_RH.float()
        for start in range(0, len(weight), block):
            ids = slice(start, start + block)
            logits_RV[:, ids] = wide_RH @ weight[ids].float().t()
    return logits_RV if head.bias is None else logits_RV.add_(head.bias.float())


ScoreRows = Callable[[Tensor, Tensor, Tensor | None, Scoring, int, AfterHead], RowScores]


def choose(kernels: Kernels, device: torch.device) -> ScoreRows:
    """Who passes over the logits on this device: PyTorch's operators or the Triton kernel.

    Raises ImportError where ``triton`` was asked for by name and is not there.
    """
    if kernels == "torch" or (kernels == "auto" and device.type != "cuda"):
        return score_rows
    if kernels == "auto":
        return _trusted(device.index or 0)
    from rgopd.teacher.engines.triton_rows import score_rows as triton_rows

    return triton_rows


@lru_cache
def _trusted(device: int) -> ScoreRows:
    """The Triton kernel if it compiles on this GPU and agrees with PyTorch's operators; decided once a process."""
    try:
        from rgopd.teacher.engines.triton_rows import score_rows as triton_rows

        worst = disagreement(triton_rows, torch.device("cuda", device))
    except (ImportError, RuntimeError, ValueError, OSError) as error:  # Triton's own errors are RuntimeErrors
        log.warning("head_kernels: the Triton kernel is not used: %s", error)
        return score_rows
    if not worst < 1e-4:
        log.warning("head_kernels: the Triton kernel is not used: it differs from PyTorch's operators by %.2g", worst)
        return score_rows
    return triton_rows


def disagreement(other: ScoreRows, device: torch.device) -> float:
    """Largest difference in nats of another implementation's scores, on rows with padding, surplus ids, a cap, and a
    vocabulary that is no multiple of any block."""
    rng = torch.Generator().manual_seed(0)
    rows, vocab, k = 3, 5003, 5
    logits = (torch.randn(rows, vocab + 5, generator=rng) * 4).to(device)
    support = torch.stack([torch.randperm(vocab, generator=rng)[:k] for _ in range(rows)]).to(device)
    support[0, -1] = PAD_ID
    sampled = support[:, 0].clone()
    sampled[-1] = vocab - 1
    worst = 0.0
    with_own = support.clone()
    with_own[1] = OWN_ID
    for scoring in (
        Scoring("student", k, 0.7),
        Scoring("student", k, own_rows=True),
        Scoring("teacher", k),
        Scoring("none", 0),
    ):
        for after in (AfterHead(), AfterHead(scale=0.5), AfterHead(soft_cap=10.0)):
            given = (with_own if scoring.own_rows else support) if scoring.support == "student" else None
            found = [math(logits.clone(), sampled, given, scoring, vocab, after) for math in (score_rows, other)]
            for a, b in zip(found[0], found[1], strict=True):
                worst = max(worst, float((a - b).abs().max()) if a.numel() else 0.0)
    return worst
