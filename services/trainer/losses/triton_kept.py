"""Kernels over tiles whose logits are kept narrowed: statistics and logits of a tile, then their gradient in place; and
the scaling of a whole gradient. ``kept`` walks with them.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from rgopd.trainer.losses.triton_shared import cap_slope, dense_grad, with_sampled


@triton.jit
def absorb(
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
def spend(
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
    """The gradient of a block of logits, without what the named ids' own entries add."""
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
    value = dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY)
    if HAS_CAP:
        value = value * cap_slope(logprob + log_normaliser, cap_scale)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def spend_named(
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
    """The whole gradient at the named ids, over what ``spend`` wrote there; from logits that were never narrowed."""
    row = tl.program_id(0).to(tl.int64)
    source = row
    if HAS_ROWS:
        source = tl.load(order + row)
    index = tl.arange(0, BLOCK_J)
    wanted = index < named
    ids = tl.load(named_ids + row * named + index, mask=wanted, other=-1)
    own = tl.load(values + row * named + index, mask=wanted, other=0.0)
    value = with_sampled(ids, own, index, tl.load(named_ids + row * named), tl.load(values + row * named))
    log_normaliser = tl.load(log_normalisers + row)
    logprob = tl.load(at + source * named + index, mask=wanted, other=0.0) - log_normaliser
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    whole = dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY) + value * inverse_temperature
    if HAS_CAP:
        whole = whole * cap_slope(logprob + log_normaliser, cap_scale)
    # An entry of value 0 changes nothing, and padding (id 0, value 0) must not overwrite what another one says of id 0.
    inside = wanted & (own != 0.0) & (ids >= start) & (ids < start + width)
    tl.store(out + row * out_stride + (ids - start), whole.to(out.dtype.element_ty), mask=inside)


@triton.jit
def scale(values, factor, count, BLOCK: tl.constexpr):
    """In place, by a 0-dim factor; nothing is touched where it is 1."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = index < count
        scaled = tl.load(values + index, mask=there, other=0.0).to(tl.float32) * by
        tl.store(values + index, scaled.to(values.dtype.element_ty), mask=there)
