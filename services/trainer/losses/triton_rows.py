"""Kernels over tiles of float32 logits: the statistics of whole rows, and a tile's gradient in its place."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from rgopd.trainer.losses.triton_shared import cap_slope, dense_grad, with_sampled


@triton.jit
def stats(
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
def dense(
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
    """The gradient of a block of logits, without what the named ids' own entries add."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    capped = tl.load(logits + row * stride + column, mask=there, other=0.0)
    x = capped * inverse_temperature
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    logprob = x - tl.load(log_normaliser + row)
    value = dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY)
    if HAS_CAP:
        value = value * cap_slope(capped, inverse_cap)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def named(
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
    value = with_sampled(ids, own, number, tl.load(named_ids + row * named), tl.load(values + row * named))
    inside = wanted & (ids >= start) & (ids < start + width)
    capped = tl.load(logits + row * stride + (ids - start), mask=inside, other=0.0)
    x = capped * inverse_temperature
    total, slope, entropy = tl.load(totals + row), tl.load(slopes + row), tl.load(entropies + row)
    logprob = x - tl.load(log_normaliser + row)
    dense = dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY)
    whole = dense + value * inverse_temperature
    if HAS_CAP:
        whole = whole * cap_slope(capped, inverse_cap)
    tl.store(at + row * named + number, whole, mask=wanted)


@triton.jit
def store(out, named_ids, values, at, out_stride, width, start, named, BLOCK_J: tl.constexpr):
    """What ``named`` computed, over what ``dense`` wrote there."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, BLOCK_J)
    wanted = number < named
    ids = tl.load(named_ids + row * named + number, mask=wanted, other=-1)
    # An entry of value 0 changes nothing, and padding (id 0, value 0) must not overwrite what another one says of id 0.
    real = tl.load(values + row * named + number, mask=wanted, other=0.0) != 0.0
    inside = wanted & real & (ids >= start) & (ids < start + width)
    value = tl.load(at + row * named + number, mask=inside, other=0.0)
    tl.store(out + row * out_stride + (ids - start), value.to(out.dtype.element_ty), mask=inside)
