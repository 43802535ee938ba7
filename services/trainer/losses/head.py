"""Log-probs out of the lm_head without the ``[N, V]`` logits: one autograd function, walked in chunks.

The forward pass walks rows: a chunk of float32 logits gives its log-normaliser, the sampled and the support log-probs
and (if asked) the entropy, and is overwritten by the next. Saved for backward: the inputs and two numbers a row. The
backward pass walks the vocabulary, since by then the normalisers are known: each tile of the logits is made again,
turned into its gradient in place, and spent on its own slice of the weight's gradient, which is thus written once and
needs no accumulator. Rows without any incoming gradient (gated-out tokens) are dropped before the first product.

On a GPU the forward pass walks tiles of the vocabulary too, and where the rows are few enough keeps the logits narrowed
for the backward pass, which then needs no product to make them again (``kept``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rgopd.trainer.losses.buckets import tail_logprob
from rgopd.trainer.losses.choice import choose
from rgopd.trainer.losses.eager import outside_graphs
from rgopd.trainer.losses.inputs import check_inputs
from rgopd.trainer.losses.kept import Gradients, HeadTiles, by_tiles, named_ids, row_stats
from rgopd.trainer.losses.plan import plan_tiles, tile_width
from rgopd.trainer.losses.products import matmul_grad
from rgopd.trainer.losses.tiles import Kept, Kernels, RowStats, SparseGrad, Walk, compute_dtype

DEFAULT_CHUNK = 1 << 26
"""Logits held at once: 67 million, 256 MiB in float32 (441 rows of Qwen2.5's vocabulary)."""


@dataclass(frozen=True)
class HeadStats:
    """Log-probs of the student's distribution at the run's temperature over the shared vocabulary, N rows.

    Float32 (float64 for float64 inputs) and differentiable with respect to hidden states and head weight.
    """

    sampled_logprobs_N: Tensor
    """``[N]`` log pi_theta of the sampled token: Eq. 1's summands."""
    support_logprobs_NK: Tensor
    """``[N, K]`` log pi_theta of the support; ``PAD_LOGPROB`` where the id is -1, with no gradient."""
    tail_logprob_N: Tensor
    """``[N]`` log of the mass outside the support, floored at 1e-7 (``buckets.tail_logprob``)."""
    entropy_N: Tensor | None = None
    """``[N]`` entropy over the whole vocabulary in nats; None unless asked for."""

    def take(self, rows: Tensor | slice) -> HeadStats:
        """The same of some rows."""
        return HeadStats(
            self.sampled_logprobs_N[rows],
            self.support_logprobs_NK[rows],
            self.tail_logprob_N[rows],
            None if self.entropy_N is None else self.entropy_N[rows],
        )


@outside_graphs
def head_stats(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    sampled_ids_N: Tensor,
    support_ids_NK: Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
    need_entropy: bool = False,
    kernels: Kernels = "auto",
    walk: Walk = "auto",
    bias_V: Tensor | None = None,
    soft_cap: float = 0.0,
) -> HeadStats:
    """What the gate and the objectives need to know of the student's next-token distributions.

    ``hidden_ND``: ``[N, D]`` last hidden states at the positions that predict the N response tokens; ``weight_VD``:
    ``[V, D]`` lm_head (or tied embedding) weight of the same dtype and device, a plain tensor: under FSDP2 call this
    inside the forward of the module that owns the weight. float32, float64, bfloat16 or float16; all reductions in
    float32 or wider. ``sampled_ids_N``: ``[N]`` int64. ``support_ids_NK``: ``[N, K]`` int64, distinct within a row,
    -1 for padding (ragged support, or K above the vocabulary); K may be 0. ``temperature``: divides the logits, as
    the sampler's did. ``vocab_size``: ids from here on (padding rows of the embedding, or ids that the teacher lacks)
    do not exist: they are outside the normaliser and get no gradient. ``chunk_size``: logits held at once,
    of the kept ones where it walks by tiles; None: ``DEFAULT_CHUNK``, or what ``plan.BUDGET`` allows.
    ``kernels``, ``walk``: whose passes over the logits, and which way (``tiles``). ``bias_V``: ``[V]``, added to the
    product, and ``soft_cap``: squashes the logits into (-soft_cap, soft_cap) before the temperature, in architectures
    that do so (``rgopd.common.head``); a factor on the logits is a temperature.

    Raises ValueError on shapes or dtypes that do not fit, ids outside the vocabulary, or a sharded weight.
    """
    vocab = weight_VD.shape[0] if vocab_size is None else vocab_size
    named = sampled_ids_N, support_ids_NK
    check_inputs(hidden_ND, weight_VD, *named, vocab, temperature, chunk_size, bias_V, soft_cap)
    scalars = temperature, vocab, chunk_size, need_entropy, kernels, soft_cap
    function = _HeadByTiles if by_tiles(walk, hidden_ND) else _HeadStats
    sampled_N, support_NK, entropy_N = function.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, *named, *scalars
    )
    return HeadStats(sampled_N, support_NK, tail_logprob(support_NK), entropy_N if need_entropy else None)


class _HeadStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        sampled_ids_N: Tensor,
        support_ids_NK: Tensor,
        temperature: float,
        vocab: int,
        chunk_size: int | None,
        need_entropy: bool,
        kernels: Kernels,
        soft_cap: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tiles = choose(kernels, hidden_ND)
        chunk_size = chunk_size or DEFAULT_CHUNK
        rows_a_chunk = max(1, chunk_size // vocab)
        dtype = compute_dtype(hidden_ND)
        parts: list[RowStats] = []
        buffer = torch.empty((min(rows_a_chunk, hidden_ND.shape[0]), vocab), dtype=dtype, device=hidden_ND.device)
        after: dict[str, Any] = {"bias_T": None if bias_V is None else bias_V[:vocab], "soft_cap": soft_cap}
        for start in range(0, hidden_ND.shape[0], rows_a_chunk):
            rows = slice(start, start + rows_a_chunk)
            hidden_CD = hidden_ND[rows]
            out_CV = buffer[: hidden_CD.shape[0]]
            logits_CV = tiles.project(hidden_CD, weight_VD[:vocab], temperature, out=out_CV, **after)
            named = sampled_ids_N[rows], support_ids_NK[rows]
            parts.append(tiles.reduce_(logits_CV, *named, need_entropy, temperature))
        stats = RowStats.cat(parts, hidden_ND, support_ids_NK.shape[1], dtype)
        ctx.save_for_backward(
            hidden_ND, weight_VD, bias_V, sampled_ids_N, support_ids_NK, stats.log_normaliser_N, stats.entropy_N
        )
        ctx.scalars = (temperature, vocab, chunk_size, need_entropy, soft_cap)
        ctx.tiles = tiles
        return stats.sampled_N, stats.support_NK, stats.entropy_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_sampled_N: Tensor, grad_support_NK: Tensor, grad_entropy_N: Tensor
    ) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad_sampled_N, grad_support_NK, grad_entropy_N)


class _HeadByTiles(torch.autograd.Function):
    """The same by tiles, the logits kept for the backward pass where one chunk holds them all; see ``kept``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        sampled_ids_N: Tensor,
        support_ids_NK: Tensor,
        temperature: float,
        vocab: int,
        chunk_size: int | None,
        need_entropy: bool,
        kernels: Kernels,
        soft_cap: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows_n, dtype = hidden_ND.shape[0], compute_dtype(hidden_ND)
        sizes = plan_tiles(rows_n, vocab, hidden_ND.shape[1], hidden_ND.element_size(), chunk_size=chunk_size)
        bias = None if bias_V is None else bias_V[:vocab]
        head = HeadTiles(choose(kernels, hidden_ND), weight_VD[:vocab], bias, temperature, soft_cap, sizes)
        ids_NJ = named_ids(sampled_ids_N, support_ids_NK)
        keep_NV = None
        if any(ctx.needs_input_grad[:3]) and sizes.rows >= rows_n:
            keep_NV = torch.empty((rows_n, vocab), dtype=hidden_ND.dtype, device=hidden_ND.device)
        found = [head.absorb(hidden_ND[rows], ids_NJ[rows], keep_NV) for rows in sizes.chunks(rows_n)]
        parts = [row_stats(kept, need_entropy) for kept in found]
        stats = RowStats.cat(parts, hidden_ND, support_ids_NK.shape[1], dtype)
        ctx.save_for_backward(
            hidden_ND, weight_VD, bias_V, sampled_ids_N, support_ids_NK, stats.log_normaliser_N, stats.entropy_N
        )
        ctx.scalars = (temperature, vocab, chunk_size or DEFAULT_CHUNK, need_entropy, soft_cap)
        ctx.tiles, ctx.head = head.tiles, head
        ctx.kept = found[0] if keep_NV is not None and found else None
        return stats.sampled_N, stats.support_NK, stats.entropy_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_sampled_N: Tensor, grad_support_NK: Tensor, grad_entropy_N: Tensor
    ) -> tuple[Tensor | None, ...]:
        kept: Kept | None = ctx.kept
        ctx.kept = None  # overwritten by its gradient; a second backward makes its logits again
        grads = grad_sampled_N, grad_support_NK, grad_entropy_N
        return _backward(ctx, *grads) if kept is None else _backward_kept(ctx, kept, *grads)


def _incoming(ctx: Any, *grads: Tensor) -> tuple[SparseGrad, Tensor]:
    """The gradients of the named ids' log-probs, and the rows ``[A]`` that have any."""
    grad_sampled_N, grad_support_NK, grad_entropy_N = grads
    _, _, _, sampled_ids_N, support_ids_NK, _, _ = ctx.saved_tensors
    grad = SparseGrad.of(sampled_ids_N, support_ids_NK, grad_sampled_N, grad_support_NK)
    active_N = (grad.values_NJ != 0).any(-1)
    if ctx.scalars[3]:
        active_N |= grad_entropy_N != 0
    return grad, active_N.nonzero().squeeze(1)


def _backward_kept(ctx: Any, kept: Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
    hidden_ND, weight_VD, bias_V, *_, log_normaliser_N, entropy_N = ctx.saved_tensors
    grad, active_A = _incoming(ctx, *grads)
    need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
    wanted = weight_VD if need_weight else None, bias_V if need_bias else None
    into = Gradients.for_(need_hidden, *wanted, ctx.head.weight_VD.shape[0], False)
    grad_hidden_ND: Tensor | None = torch.zeros_like(hidden_ND) if need_hidden else None
    every = active_A.numel() == hidden_ND.shape[0]
    if not active_A.numel():
        if into.weight_VD is not None:
            into.weight_VD.zero_()
    elif every:
        entropy = (grads[2], entropy_N) if ctx.scalars[3] else None
        grad_hidden_ND = ctx.head.spend(kept, hidden_ND, log_normaliser_N, grad, entropy, into, first=True)
    else:
        entropy = (grads[2][active_A], entropy_N[active_A]) if ctx.scalars[3] else None
        some = active_A, hidden_ND[active_A], log_normaliser_N[active_A], grad.take(active_A), entropy, into
        grad_hidden_AD = ctx.head.spend_some(kept, *some)
        if grad_hidden_ND is not None and grad_hidden_AD is not None:
            grad_hidden_ND[active_A] = grad_hidden_AD.to(grad_hidden_ND.dtype)
    grad_bias_V = None if into.bias_V is None or bias_V is None else into.bias_V.to(bias_V.dtype)
    return grad_hidden_ND, into.weight_VD, grad_bias_V, *(None,) * 8


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The logits of the rows that have a gradient are made again, tile by tile."""
    hidden_ND, weight_VD, bias_V, *_, log_normaliser_N, entropy_N = ctx.saved_tensors
    temperature, vocab, chunk_size, need_entropy, soft_cap = ctx.scalars
    grad, active_A = _incoming(ctx, *grads)
    need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_hidden_ND = torch.zeros_like(hidden_ND) if need_hidden else None
    grad_weight_VD = torch.zeros_like(weight_VD) if need_weight else None
    grad_bias_V = torch.zeros_like(bias_V) if need_bias else None
    if active_A.numel() == 0:
        return grad_hidden_ND, grad_weight_VD, grad_bias_V, *(None,) * 8

    hidden_AD = hidden_ND[active_A]
    grad_A = grad.take(active_A).sorted_by_id()
    grad_hidden_AD = torch.zeros_like(hidden_AD, dtype=log_normaliser_N.dtype) if need_hidden else None
    tile = tile_width(active_A.numel(), vocab, chunk_size)
    buffer = torch.empty(active_A.numel() * tile, dtype=log_normaliser_N.dtype, device=hidden_ND.device)
    for start in range(0, vocab, tile):
        stop = min(start + tile, vocab)
        logits_AT = buffer[: active_A.numel() * (stop - start)].view(active_A.numel(), stop - start)
        bias_T = None if bias_V is None else bias_V[start:stop]
        weight_TD = weight_VD[start:stop]
        ctx.tiles.project(hidden_AD, weight_TD, temperature, out=logits_AT, bias_T=bias_T, soft_cap=soft_cap)
        entropy = (grads[2][active_A], entropy_N[active_A]) if need_entropy else None
        scalars = start, entropy, temperature
        normaliser_A, dtype = log_normaliser_N[active_A], hidden_ND.dtype
        options = {"reduced": False, "dtype": dtype, "soft_cap": soft_cap}
        grad_AT = ctx.tiles.grad_(logits_AT, normaliser_A, grad_A, *scalars, **options)
        if grad_bias_V is not None:
            grad_bias_V[start:stop] = grad_AT.sum(0, dtype=log_normaliser_N.dtype)
        matmul_grad(
            grad_AT,
            hidden_AD,
            weight_TD,
            grad_hidden_AD,
            None if grad_weight_VD is None else grad_weight_VD[start:stop],
        )
    if grad_hidden_ND is not None and grad_hidden_AD is not None:
        grad_hidden_ND[active_A] = grad_hidden_AD.to(grad_hidden_ND.dtype)
    return grad_hidden_ND, grad_weight_VD, grad_bias_V, *(None,) * 8
