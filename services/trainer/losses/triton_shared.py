"""What the kernels over kept logits and over whole rows both compute."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dense_grad(logprob, total, slope, entropy, inverse_temperature, HAS_ENTROPY: tl.constexpr):
    """Gradient of the logits from everything but the named ids' own entries; see ``torch_tiles.logits_grad_``."""
    weight = -total
    if HAS_ENTROPY:
        weight = -slope * (logprob + entropy) - total
    return tl.exp(logprob) * weight * inverse_temperature


@triton.jit
def cap_slope(capped, inverse_cap):
    """Derivative of cap * tanh(z / cap) by z, from its value."""
    return 1.0 - (capped * inverse_cap) * (capped * inverse_cap)


@triton.jit
def with_sampled(ids, own, index, sampled_id, sampled_value):
    """What comes in at each named id. Column 0 is the sampled id, which may be one of the others; those are distinct
    but for padding, which has value 0."""
    same = (ids == sampled_id) & ((own != 0.0) | (index == 0))
    total = tl.sum(tl.where(same, own, 0.0), 0)
    return tl.where(index == 0, total, own + tl.where(same, sampled_value, 0.0))
