"""The loss and its gradient in one walk over the head, where a token's weight is known before the forward pass.

``head.head_stats`` must make the logits twice, since the gate that decides which rows matter reads the log-probs of
whole rollouts first: four products with the head's weight. Here each chunk of rows is turned into loss and gradient
while its logits are at hand: three products for rows that count, one for rows of weight 0, as in the plain backward
pass but without ``[N, V]``. Exact gates can have this too: see ``objectives.step.head_loss``, which predicts the gate
and repairs what it predicted wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rgopd.trainer.losses.buckets import TailMode, bucket_logprobs, tail_logprob
from rgopd.trainer.losses.choice import choose
from rgopd.trainer.losses.divergences import reverse_kl
from rgopd.trainer.losses.eager import outside_graphs
from rgopd.trainer.losses.head import DEFAULT_CHUNK, HeadStats
from rgopd.trainer.losses.inputs import check_inputs
from rgopd.trainer.losses.kept import Gradients, HeadTiles, by_tiles, named_ids, row_stats
from rgopd.trainer.losses.plan import plan_tiles
from rgopd.trainer.losses.products import matmul_grad
from rgopd.trainer.losses.tiles import Kernels, RowStats, SparseGrad, TileMath, Walk, compute_dtype

TokenLoss = Callable[[HeadStats, Tensor], Tensor]
"""``(stats of C rows, their indices [C]) -> losses [C]``, differentiable, each depending on its own row alone."""


@dataclass(frozen=True)
class FusedLoss:
    """``loss``: 0-dim ``sum_n token_weight_n * loss_n``, differentiable once. ``loss_N`` and ``stats``: detached."""

    loss: Tensor
    loss_N: Tensor
    stats: HeadStats


@dataclass(frozen=True)
class _Plan:
    """What the walk needs beside tensors."""

    token_loss: TokenLoss
    temperature: float
    vocab: int
    chunk_size: int | None
    need_entropy: bool
    need_hidden: bool
    need_weight: bool
    need_bias: bool
    tiles: TileMath
    soft_cap: float


@outside_graphs
def fused_head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    sampled_ids_N: Tensor,
    support_ids_NK: Tensor,
    token_loss: TokenLoss,
    token_weight_N: Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
    need_entropy: bool = False,
    kernels: Kernels = "auto",
    walk: Walk = "auto",
    bias_V: Tensor | None = None,
    soft_cap: float = 0.0,
) -> FusedLoss:
    """``sum_n token_weight_n * token_loss_n`` with its gradient taken in the forward pass.

    Arguments as in ``head_stats``; ``token_weight_N`` ``[N]`` float, constant (no gradient flows to it), 0 for tokens
    that do not count: they cost one product, for their statistics. The gradients wait in memory for the backward
    pass: one ``[N, D]`` and one ``[V, D]``, the latter in float32 for low-precision weights. Backward runs once.
    """
    vocab = weight_VD.shape[0] if vocab_size is None else vocab_size
    named = sampled_ids_N, support_ids_NK
    check_inputs(hidden_ND, weight_VD, *named, vocab, temperature, chunk_size, bias_V, soft_cap)
    recording = torch.is_grad_enabled()
    plan = _Plan(
        token_loss,
        temperature,
        vocab,
        chunk_size,
        need_entropy,
        recording and hidden_ND.requires_grad,
        recording and weight_VD.requires_grad,
        recording and bias_V is not None and bias_V.requires_grad,
        choose(kernels, hidden_ND),
        soft_cap,
    )
    function = _FusedByTiles if by_tiles(walk, hidden_ND) else _FusedLoss
    loss, loss_N, *stats = function.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, *named, token_weight_N.detach(), plan
    )
    sampled_N, support_NK, entropy_N = stats
    return FusedLoss(
        loss,
        loss_N,
        HeadStats(sampled_N, support_NK, tail_logprob(support_NK), entropy_N if need_entropy else None),
    )


@outside_graphs
def fused_topk_kl(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    sampled_ids_N: Tensor,
    support_ids_NK: Tensor,
    teacher_support_NK: Tensor,
    teacher_tail_N: Tensor,
    token_weight_N: Tensor,
    *,
    tail: TailMode = "tail",
    temperature: float = 1.0,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
    kernels: Kernels = "auto",
    walk: Walk = "auto",
    bias_V: Tensor | None = None,
    soft_cap: float = 0.0,
) -> FusedLoss:
    """Eq. 4 summed with ``token_weight_N``: the raw numerator of Eq. 3 when the weight is the gate."""

    def eq4(stats: HeadStats, rows: Tensor) -> Tensor:
        ids_CK, dtype = support_ids_NK[rows], stats.support_logprobs_NK.dtype
        student_CB = bucket_logprobs(stats.support_logprobs_NK, stats.tail_logprob_N, ids_CK, tail)
        teacher_CB = bucket_logprobs(teacher_support_NK[rows].to(dtype), teacher_tail_N[rows].to(dtype), ids_CK, tail)
        return reverse_kl(student_CB, teacher_CB)

    return fused_head_loss(
        hidden_ND,
        weight_VD,
        sampled_ids_N,
        support_ids_NK,
        eq4,
        token_weight_N,
        temperature=temperature,
        vocab_size=vocab_size,
        chunk_size=chunk_size,
        kernels=kernels,
        walk=walk,
        bias_V=bias_V,
        soft_cap=soft_cap,
    )


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        sampled_ids_N: Tensor,
        support_ids_NK: Tensor,
        token_weight_N: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, ...]:
        dtype = compute_dtype(hidden_ND)
        rows_n = hidden_ND.shape[0]
        chunk_rows = max(1, min((plan.chunk_size or DEFAULT_CHUNK) // plan.vocab, rows_n))
        buffer = torch.empty((chunk_rows, plan.vocab), dtype=dtype, device=hidden_ND.device)
        grad_hidden_ND = torch.zeros_like(hidden_ND) if plan.need_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=dtype) if plan.need_weight else None
        grad_bias_V = None if bias_V is None or not plan.need_bias else torch.zeros_like(bias_V, dtype=dtype)
        after: dict[str, Any] = {"bias_T": None if bias_V is None else bias_V[: plan.vocab], "soft_cap": plan.soft_cap}
        # Rows that count first, so that only the one chunk at the border mixes both kinds.
        order_N = (token_weight_N == 0).to(torch.int8).argsort(stable=True)
        parts, losses = [], []
        for start in range(0, rows_n, chunk_rows):
            rows = order_N[start : start + chunk_rows]
            hidden_CD, weight_C = hidden_ND[rows], token_weight_N[rows]
            named = sampled_ids_N[rows], support_ids_NK[rows]
            logits_CV = plan.tiles.project(
                hidden_CD, weight_VD[: plan.vocab], plan.temperature, out=buffer[: len(rows)], **after
            )
            part = plan.tiles.reduce_(logits_CV, *named, plan.need_entropy, plan.temperature)
            loss_C, grad, grad_entropy_C = _small_backward(part, named, weight_C, rows, plan)
            parts.append(part)
            losses.append(loss_C)
            if (plan.need_hidden or plan.need_weight or plan.need_bias) and bool((weight_C != 0).any()):
                entropy = (grad_entropy_C, part.entropy_N) if plan.need_entropy else None
                scalars = 0, entropy, plan.temperature
                options: dict[str, Any] = {"reduced": True, "dtype": hidden_ND.dtype, "soft_cap": plan.soft_cap}
                grad_CV = plan.tiles.grad_(logits_CV, part.log_normaliser_N, grad, *scalars, **options)
                if grad_bias_V is not None:
                    grad_bias_V[: plan.vocab] += grad_CV.sum(0, dtype=dtype)
                grad_CD = torch.zeros_like(hidden_CD, dtype=dtype) if plan.need_hidden else None
                into_VD = None if grad_weight_VD is None else grad_weight_VD[: plan.vocab]
                matmul_grad(grad_CV, hidden_CD, weight_VD[: plan.vocab], grad_CD, into_VD, accumulate=True)
                if grad_hidden_ND is not None and grad_CD is not None:
                    grad_hidden_ND[rows] = grad_CD.to(hidden_ND.dtype)
        ctx.gradients = (
            grad_hidden_ND,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None or bias_V is None else grad_bias_V.to(bias_V.dtype),
        )
        stats = RowStats.cat(parts, hidden_ND, support_ids_NK.shape[1], dtype)
        back_N = order_N.argsort()
        loss_N = torch.cat(losses)[back_N] if losses else stats.sampled_N.clone()
        detached = loss_N, stats.sampled_N[back_N], stats.support_NK[back_N], stats.entropy_N[back_N]
        ctx.mark_non_differentiable(*detached)
        return torch.where(token_weight_N == 0, 0.0, loss_N * token_weight_N).sum(), *detached

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return _hand_out(ctx, grad_loss, lambda grad, factor: grad.mul_(factor.to(grad.dtype)))


class _FusedByTiles(torch.autograd.Function):
    """The same by tiles; see ``kept``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        sampled_ids_N: Tensor,
        support_ids_NK: Tensor,
        token_weight_N: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, ...]:
        wanted = plan.need_hidden or plan.need_weight or plan.need_bias
        # Rows that count first, gathered once: what follows are views of contiguous chunks.
        order_N = (token_weight_N == 0).to(torch.int8).argsort(stable=True)
        active = int((token_weight_N != 0).sum()) if wanted else 0
        hidden_OD, token_weight_O = hidden_ND[order_N], token_weight_N[order_N]
        sampled_O, support_OK = sampled_ids_N[order_N], support_ids_NK[order_N]
        shape = plan.vocab, hidden_ND.shape[1], hidden_ND.element_size()
        sizes, others = (
            plan_tiles(count, *shape, chunk_size=plan.chunk_size) for count in (active, len(order_N) - active)
        )
        bias = None if bias_V is None else bias_V[: plan.vocab]
        head = HeadTiles(plan.tiles, weight_VD[: plan.vocab], bias, plan.temperature, plan.soft_cap, sizes)
        for_statistics = replace(head, plan=others)
        grads = weight_VD if plan.need_weight else None, bias_V if plan.need_bias else None
        into = Gradients.for_(plan.need_hidden, *grads, plan.vocab, sizes.wide_sum)
        grad_hidden_OD = torch.zeros_like(hidden_OD) if plan.need_hidden else None
        parts, losses = [], []
        keep = torch.empty((min(sizes.rows, active), plan.vocab), dtype=hidden_ND.dtype, device=hidden_ND.device)
        for rows in [*sizes.chunks(active), *others.chunks(len(order_N), after=active)]:
            named, counts = (sampled_O[rows], support_OK[rows]), rows.stop <= active
            keep_CV = keep[: rows.stop - rows.start] if counts else None
            kept = (head if counts else for_statistics).absorb(hidden_OD[rows], named_ids(*named), keep_CV)
            part = row_stats(kept, plan.need_entropy)
            loss_C, grad, grad_entropy_C = _small_backward(part, named, token_weight_O[rows], order_N[rows], plan)
            parts.append(part)
            losses.append(loss_C)
            if counts:
                entropy = (grad_entropy_C, part.entropy_N) if plan.need_entropy else None
                incoming = part.log_normaliser_N, grad, entropy
                grad_CD = head.spend(kept, hidden_OD[rows], *incoming, into, first=rows.start == 0)
                if grad_hidden_OD is not None and grad_CD is not None:
                    grad_hidden_OD[rows] = grad_CD
        if into.weight_VD is not None and not active:
            into.weight_VD.zero_()
        back_N = order_N.argsort()
        ctx.tiles = plan.tiles
        ctx.gradients = (
            None if grad_hidden_OD is None else grad_hidden_OD[back_N],
            None if into.weight_VD is None else into.weight_VD.to(weight_VD.dtype),
            None if into.bias_V is None or bias_V is None else into.bias_V.to(bias_V.dtype),
        )
        stats = RowStats.cat(parts, hidden_ND, support_ids_NK.shape[1], compute_dtype(hidden_ND))
        loss_N = torch.cat(losses)[back_N] if losses else stats.sampled_N.clone()
        detached = loss_N, stats.sampled_N[back_N], stats.support_NK[back_N], stats.entropy_N[back_N]
        ctx.mark_non_differentiable(*detached)
        return torch.where(token_weight_N == 0, 0.0, loss_N * token_weight_N).sum(), *detached

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return _hand_out(ctx, grad_loss, ctx.tiles.scale_)


def _hand_out(ctx: Any, grad_loss: Tensor, scale_: Callable[[Tensor, Tensor], object]) -> tuple[Tensor | None, ...]:
    if ctx.gradients is None:
        raise RuntimeError("the fused loss holds its gradient once: backward ran before")
    gradients, ctx.gradients = ctx.gradients, None
    for grad in gradients:
        if grad is not None:
            scale_(grad, grad_loss)
    return *gradients, None, None, None, None


def _small_backward(
    part: RowStats, named: tuple[Tensor, Tensor], weight_C: Tensor, rows: Tensor, plan: _Plan
) -> tuple[Tensor, SparseGrad, Tensor]:
    """The objective on the chunk's ``[C, K]`` statistics: its losses, and what it sends back to each statistic."""
    with torch.enable_grad():
        sampled_C, support_CK, entropy_C = (
            value.detach().requires_grad_() for value in (part.sampled_N, part.support_NK, part.entropy_N)
        )
        stats = HeadStats(sampled_C, support_CK, tail_logprob(support_CK), entropy_C if plan.need_entropy else None)
        loss_C = plan.token_loss(stats, rows)
        weighted = torch.where(weight_C == 0, 0.0, loss_C * weight_C).sum()
    grads: list[Tensor] = [torch.zeros_like(value) for value in (sampled_C, support_CK, entropy_C)]
    if weighted.requires_grad:
        found = torch.autograd.grad(weighted, (sampled_C, support_CK, entropy_C), allow_unused=True)
        grads = [zero if grad is None else grad for grad, zero in zip(found, grads, strict=True)]
    return loss_C.detach(), SparseGrad.of(*named, grads[0], grads[1]), grads[2]
