"""The passes over a tile of logits as Triton kernels: one read for the statistics, one read and one write for the
gradient, where PyTorch's operators take eight. The products with the head's weight stay cuBLAS's.

Needs a GPU, or TRITON_INTERPRET=1, under which the tests run. ``choice.choose`` compares the kernels with PyTorch's
operators on the device before it trusts them.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.losses.products import project
from rgopd.trainer.losses.tiles import Kept, RowStats, SparseGrad

_BLOCK = 4096
"""Columns that one program holds at once."""


class TritonTiles:
    """See ``tiles.TileMath``. The tile keeps its raw logits until it becomes a gradient."""

    name = "triton"

    def project(
        self,
        hidden_CD: Tensor,
        weight_TD: Tensor,
        temperature: float,
        *,
        out: Tensor,
        bias_T: Tensor | None = None,
        soft_cap: float = 0.0,
    ) -> Tensor:
        """Without the division by the temperature, which the kernels do on the way."""
        return project(hidden_CD, weight_TD, 1.0, out=out, bias_T=bias_T, soft_cap=soft_cap)

    def reduce_(
        self, logits_CV: Tensor, sampled_ids_C: Tensor, support_ids_CK: Tensor, need_entropy: bool, temperature: float
    ) -> RowStats:
        """One program a row."""
        rows, vocab = logits_CV.shape
        k = support_ids_CK.shape[1]
        log_normaliser_C, sampled_C = logits_CV.new_empty(rows), logits_CV.new_empty(rows)
        entropy_C, support_CK = logits_CV.new_zeros(rows), logits_CV.new_empty(rows, k)
        _stats[(rows,)](
            logits_CV,
            sampled_ids_C.contiguous(),
            support_ids_CK.contiguous(),
            log_normaliser_C,
            sampled_C,
            support_CK,
            entropy_C,
            logits_CV.stride(0),
            vocab,
            k,
            1.0 / temperature,
            PAD=PAD_LOGPROB,
            BLOCK=min(_BLOCK, triton.next_power_of_2(vocab)),
            BLOCK_K=triton.next_power_of_2(max(1, k)),
        )
        return RowStats(log_normaliser_C, sampled_C, support_CK, entropy_C)

    def grad_(
        self,
        tile_NT: Tensor,
        log_normaliser_N: Tensor,
        grad: SparseGrad,
        start: int,
        entropy: tuple[Tensor, Tensor] | None,
        temperature: float,
        *,
        reduced: bool,
        dtype: torch.dtype,
        soft_cap: float = 0.0,
    ) -> Tensor:
        """Into the tile itself, or for a narrower ``dtype`` into a buffer of that."""
        rows, width = tile_NT.shape
        out_NT = tile_NT if dtype == tile_NT.dtype else torch.empty_like(tile_NT, dtype=dtype)
        total_N = grad.values_NJ.sum(dim=1)
        # Kernels index rows by 1: a column of a wider tensor would be read wrongly.
        log_normaliser_N = log_normaliser_N.contiguous()
        slope_N, entropy_N = (x.contiguous() for x in (entropy if entropy is not None else (total_N, total_N)))
        named = grad.ids_NJ.shape[1]
        # Before the dense pass overwrites the logits at these ids; stored after it.
        at_NJ = tile_NT.new_empty(rows, named)
        shared = (tile_NT, log_normaliser_N, grad.ids_NJ.contiguous(), grad.values_NJ.contiguous(), at_NJ)
        scalars = (tile_NT.stride(0), width, start, named, 1.0 / temperature, 1.0 / soft_cap if soft_cap else 0.0)
        options = {"HAS_ENTROPY": entropy is not None, "HAS_CAP": bool(soft_cap)}
        block_j = triton.next_power_of_2(named)
        _named[(rows,)](*shared, total_N, slope_N, entropy_N, *scalars, **options, BLOCK_J=block_j)
        block = min(_BLOCK, triton.next_power_of_2(width))
        _dense[(rows, triton.cdiv(width, block))](
            tile_NT,
            out_NT,
            log_normaliser_N,
            total_N,
            slope_N,
            entropy_N,
            tile_NT.stride(0),
            out_NT.stride(0),
            width,
            1.0 / temperature,
            scalars[-1],
            **options,
            BLOCK=block,
        )
        _store[(rows,)](
            out_NT,
            grad.ids_NJ.contiguous(),
            grad.values_NJ.contiguous(),
            at_NJ,
            out_NT.stride(0),
            width,
            start,
            named,
            BLOCK_J=block_j,
        )
        return out_NT

    def absorb_(self, tile_CT: Tensor, start: int, temperature: float, kept: Kept) -> None:
        """One program a row and block; the row's first also looks the named ids up."""
        rows, width = tile_CT.shape
        named, keep = kept.ids_CJ.shape[1], kept.logits_CV
        _absorb[(rows, triton.cdiv(width, kept.block))](
            tile_CT,
            tile_CT if keep is None else keep,
            kept.largest_CB,
            kept.total_CB,
            kept.moment_CB,
            kept.ids_CJ,
            kept.named_CJ,
            tile_CT.stride(0),
            0 if keep is None else keep.stride(0),
            kept.largest_CB.stride(0),
            width,
            start,
            named,
            1.0 / temperature,
            KEEP=keep is not None,
            BLOCK=kept.block,
            BLOCK_J=triton.next_power_of_2(named),
        )

    def spend_(
        self,
        kept: Kept,
        rows_A: Tensor | None,
        log_normaliser_A: Tensor,
        grad: SparseGrad,
        start: int,
        out_AT: Tensor,
        entropy: tuple[Tensor, Tensor] | None,
        temperature: float,
        *,
        soft_cap: float = 0.0,
    ) -> None:
        """One program a row and block, then one a row for its named ids."""
        keep = kept.logits_CV
        assert keep is not None
        rows, width = out_AT.shape
        named = grad.ids_NJ.shape[1]
        total_A = grad.values_NJ.sum(dim=1)
        log_normaliser_A = log_normaliser_A.contiguous()
        slope_A, entropy_A = (x.contiguous() for x in (entropy if entropy is not None else (total_A, total_A)))
        order_A = log_normaliser_A if rows_A is None else rows_A.contiguous()
        per_row = (log_normaliser_A, total_A, slope_A, entropy_A)
        cap = 1.0 / soft_cap if soft_cap else 0.0
        options = {"HAS_ROWS": rows_A is not None, "HAS_ENTROPY": entropy is not None, "HAS_CAP": bool(soft_cap)}
        _spend[(rows, triton.cdiv(width, kept.block))](
            keep,
            out_AT,
            order_A,
            kept.largest_CB,
            *per_row,
            keep.stride(0),
            out_AT.stride(0),
            kept.largest_CB.stride(0),
            width,
            start,
            1.0 / temperature,
            temperature * cap,
            **options,
            BLOCK=kept.block,
        )
        _spend_named[(rows,)](
            out_AT,
            order_A,
            grad.ids_NJ.contiguous(),
            grad.values_NJ.contiguous(),
            kept.named_CJ,
            *per_row,
            out_AT.stride(0),
            width,
            start,
            named,
            1.0 / temperature,
            temperature * cap,
            **options,
            BLOCK_J=triton.next_power_of_2(named),
        )

    def scale_(self, values: Tensor, factor: Tensor) -> None:
        """Programs that find a 1 end there, so that a gradient of hundreds of megabytes is not rewritten for it."""
        flat = values.view(-1)
        _scale[(triton.cdiv(flat.numel(), _BLOCK),)](flat, factor.detach(), flat.numel(), BLOCK=_BLOCK)


@triton.jit
def _absorb(
    tile,
    keep,
    largests,
    totals,
    moments,
    named_ids,
    at,
    stride,
    keep_stride,
    block_stride,
    width,
    start,
    named,
    inverse_temperature,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """A block's largest logit, sum and first moment; see ``tiles.Kept``."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1)
    column = number * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    # Beyond the tile: finite, so that times a weight of 0 it is 0 and not NaN.
    x = tl.where(there, tl.load(tile + row * stride + column, mask=there, other=0.0) * inverse_temperature, -1e30)
    largest = tl.max(x, 0)
    below = x - largest
    weight = tl.exp(below)
    slot = row * block_stride + start // BLOCK + number
    tl.store(largests + slot, largest)
    tl.store(totals + slot, tl.sum(weight, 0))
    tl.store(moments + slot, tl.sum(below * weight, 0))
    if KEEP:
        tl.store(keep + row * keep_stride + start + column, below.to(keep.dtype.element_ty), mask=there)
    if number == 0:
        index = tl.arange(0, BLOCK_J)
        ids = tl.load(named_ids + row * named + index, mask=index < named, other=-1)
        inside = (ids >= start) & (ids < start + width)
        found = tl.load(tile + row * stride + (ids - start), mask=inside, other=0.0) * inverse_temperature
        tl.store(at + row * named + index, found, mask=inside)


@triton.jit
def _spend(
    keep,
    out,
    order,
    largests,
    log_normalisers,
    totals,
    slopes,
    entropies,
    keep_stride,
    out_stride,
    block_stride,
    width,
    start,
    inverse_temperature,
    cap_scale,
    HAS_ROWS: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    source = row
    if HAS_ROWS:
        source = tl.load(order + row)
    number = tl.program_id(1)
    column = number * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    below = tl.load(keep + source * keep_stride + start + column, mask=there, other=0.0).to(tl.float32)
    log_normaliser = tl.load(log_normalisers + row)
    largest = tl.load(largests + source * block_stride + start // BLOCK + number)
    logprob = below + (largest - log_normaliser)
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    value = _dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY)
    if HAS_CAP:
        value = value * _cap_slope(logprob + log_normaliser, cap_scale)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _spend_named(
    out,
    order,
    named_ids,
    values,
    at,
    log_normalisers,
    totals,
    slopes,
    entropies,
    out_stride,
    width,
    start,
    named,
    inverse_temperature,
    cap_scale,
    HAS_ROWS: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """The whole gradient at the named ids, over what ``_spend`` wrote there; from logits that were never narrowed."""
    row = tl.program_id(0).to(tl.int64)
    source = row
    if HAS_ROWS:
        source = tl.load(order + row)
    index = tl.arange(0, BLOCK_J)
    wanted = index < named
    ids = tl.load(named_ids + row * named + index, mask=wanted, other=-1)
    own = tl.load(values + row * named + index, mask=wanted, other=0.0)
    value = _with_sampled(ids, own, index, tl.load(named_ids + row * named), tl.load(values + row * named))
    log_normaliser = tl.load(log_normalisers + row)
    logprob = tl.load(at + source * named + index, mask=wanted, other=0.0) - log_normaliser
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    whole = _dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY) + value * inverse_temperature
    if HAS_CAP:
        whole = whole * _cap_slope(logprob + log_normaliser, cap_scale)
    # An entry of value 0 changes nothing, and padding (id 0, value 0) must not overwrite what another one says of id 0.
    inside = wanted & (own != 0.0) & (ids >= start) & (ids < start + width)
    tl.store(out + row * out_stride + (ids - start), whole.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _scale(values, factor, count, BLOCK: tl.constexpr):
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = index < count
        scaled = tl.load(values + index, mask=there, other=0.0).to(tl.float32) * by
        tl.store(values + index, scaled.to(values.dtype.element_ty), mask=there)


@triton.jit
def _with_sampled(ids, own, index, sampled_id, sampled_value):
    """What comes in at each named id. Column 0 is the sampled id, which may be one of the others; those are distinct
    but for padding, which has value 0."""
    same = (ids == sampled_id) & ((own != 0.0) | (index == 0))
    total = tl.sum(tl.where(same, own, 0.0), 0)
    return tl.where(index == 0, total, own + tl.where(same, sampled_value, 0.0))


@triton.jit
def _stats(
    logits,
    sampled_ids,
    support_ids,
    log_normaliser,
    sampled,
    support,
    entropy,
    stride,
    vocab,
    k,
    inverse_temperature,
    PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Running maximum, sum and first moment of a row (Milakov & Gimelshein, arXiv 1805.02867), then the lookups."""
    row = tl.program_id(0).to(tl.int64)
    row_logits = logits + row * stride
    largest = -1e30
    total = 0.0
    moment = 0.0  # sum of (x - largest) exp(x - largest)
    for first in range(0, vocab, BLOCK):
        column = first + tl.arange(0, BLOCK)
        there = column < vocab
        # Beyond the vocabulary: finite, so that times a weight of 0 it is 0 and not NaN.
        x = tl.where(there, tl.load(row_logits + column, mask=there, other=0.0) * inverse_temperature, -1e30)
        new_largest = tl.maximum(largest, tl.max(x, 0))
        shift = tl.where(total > 0, largest - new_largest, 0.0)  # the first block has nothing to move
        moment = tl.exp(shift) * (moment + shift * total)
        total = total * tl.exp(shift)
        weight = tl.exp(x - new_largest)
        moment += tl.sum((x - new_largest) * weight, 0)
        total += tl.sum(weight, 0)
        largest = new_largest
    log_total = tl.log(total)
    # log p = (x - largest) - log(total): never x - logsumexp, whose rounding would drown a small tail
    picked = tl.load(row_logits + tl.load(sampled_ids + row)) * inverse_temperature
    tl.store(sampled + row, picked - largest - log_total)
    tl.store(log_normaliser + row, largest + log_total)
    tl.store(entropy + row, log_total - moment / total)
    number = tl.arange(0, BLOCK_K)
    wanted = number < k
    ids = tl.load(support_ids + row * k + number, mask=wanted, other=-1)
    real = ids >= 0
    at = tl.load(row_logits + ids, mask=real, other=0.0) * inverse_temperature
    tl.store(support + row * k + number, tl.where(real, at - largest - log_total, PAD), mask=wanted)


@triton.jit
def _dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY: tl.constexpr):
    """Gradient of the logits from everything but the named ids' own entries; see ``torch_tiles.logits_grad_``."""
    weight = -total
    if HAS_ENTROPY:
        weight = -slope * (logprob + entropy) - total
    return tl.exp(logprob) * weight * inverse_temperature


@triton.jit
def _cap_slope(capped, inverse_cap):
    """Derivative of cap * tanh(z / cap) by z, from its value."""
    return 1.0 - (capped * inverse_cap) * (capped * inverse_cap)


@triton.jit
def _dense(
    logits,
    out,
    log_normaliser,
    totals,
    slopes,
    entropies,
    stride,
    out_stride,
    width,
    inverse_temperature,
    inverse_cap,
    HAS_ENTROPY: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    capped = tl.load(logits + row * stride + column, mask=there, other=0.0)
    x = capped * inverse_temperature
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    logprob = x - tl.load(log_normaliser + row)
    value = _dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY)
    if HAS_CAP:
        value = value * _cap_slope(capped, inverse_cap)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _named(
    logits,
    log_normaliser,
    named_ids,
    values,
    at,
    totals,
    slopes,
    entropies,
    stride,
    width,
    start,
    named,
    inverse_temperature,
    inverse_cap,
    HAS_ENTROPY: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """The whole gradient at the named ids of a row, in float32: they are rounded once, after both parts are added."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, BLOCK_J)
    wanted = number < named
    ids = tl.load(named_ids + row * named + number, mask=wanted, other=-1)
    own = tl.load(values + row * named + number, mask=wanted, other=0.0)
    value = _with_sampled(ids, own, number, tl.load(named_ids + row * named), tl.load(values + row * named))
    inside = wanted & (ids >= start) & (ids < start + width)
    capped = tl.load(logits + row * stride + (ids - start), mask=inside, other=0.0)
    x = capped * inverse_temperature
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    logprob = x - tl.load(log_normaliser + row)
    dense = _dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY)
    whole = dense + value * inverse_temperature
    if HAS_CAP:
        whole = whole * _cap_slope(capped, inverse_cap)
    tl.store(at + row * named + number, whole, mask=wanted)


@triton.jit
def _store(out, named_ids, values, at, out_stride, width, start, named, BLOCK_J: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, BLOCK_J)
    wanted = number < named
    ids = tl.load(named_ids + row * named + number, mask=wanted, other=-1)
    # An entry of value 0 changes nothing, and padding (id 0, value 0) must not overwrite what another one says of id 0.
    real = tl.load(values + row * named + number, mask=wanted, other=0.0) != 0.0
    inside = wanted & real & (ids >= start) & (ids < start + width)
    value = tl.load(at + row * named + number, mask=inside, other=0.0)
    tl.store(out + row * out_stride + (ids - start), value.to(out.dtype.element_ty), mask=inside)
