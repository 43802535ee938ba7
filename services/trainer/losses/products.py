"""The two products with the head's weight, forward and backward: BLAS does them under either `TileMath`."""

from __future__ import annotations

import torch
from torch import Tensor

from rgopd.trainer.losses.tiles import compute_dtype

_UPCAST_ROWS = 8192
"""Weight rows widened to float32 at a time where the device has no mixed-precision product."""


def project(
    hidden_CD: Tensor,
    weight_TD: Tensor,
    temperature: float,
    *,
    out: Tensor,
    bias_T: Tensor | None = None,
    soft_cap: float = 0.0,
) -> Tensor:
    """``(hidden @ weight.T + bias) / temperature`` into ``out`` ``[C, T]`` of the compute dtype; with a ``soft_cap``
    the logits are squashed into ``(-soft_cap, soft_cap)`` before the division.

    Low-precision inputs never make low-precision logits: near a logit of 20 bfloat16 steps by 0.125.
    """
    if hidden_CD.dtype == out.dtype:
        torch.mm(hidden_CD, weight_TD.t(), out=out)
    elif hidden_CD.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):
        out.copy_(torch.mm(hidden_CD, weight_TD.t(), out_dtype=out.dtype))
    else:
        wide_CD = hidden_CD.to(out.dtype)
        for start in range(0, weight_TD.shape[0], _UPCAST_ROWS):
            some = slice(start, start + _UPCAST_ROWS)
            out[:, some] = wide_CD @ weight_TD[some].to(out.dtype).t()
    if bias_T is not None:
        out.add_(bias_T)
    if soft_cap:
        out.div_(soft_cap).tanh_().mul_(soft_cap)
    return out if temperature == 1.0 else out.div_(temperature)


def matmul_grad(
    grad_NT: Tensor,
    hidden_ND: Tensor,
    weight_TD: Tensor,
    grad_hidden_ND: Tensor | None,
    grad_weight_TD: Tensor | None,
    *,
    accumulate: bool = False,
) -> None:
    """Adds a tile's share to ``grad_hidden_ND`` (compute dtype) and writes, or adds, its ``grad_weight_TD``.

    Low-precision operands are widened to the tile's dtype, a slice of the vocabulary at a time; on a GPU the tile is
    narrowed instead, as the plain backward pass does, and the product accumulates in float32 there.
    """
    if hidden_ND.dtype == compute_dtype(hidden_ND):
        if grad_hidden_ND is not None:
            grad_hidden_ND.addmm_(grad_NT, weight_TD)
        if grad_weight_TD is not None:
            grad_weight_TD.addmm_(grad_NT.t(), hidden_ND, beta=float(accumulate))
        return
    dtype = hidden_ND.dtype if hidden_ND.is_cuda else grad_NT.dtype  # narrow already where a kernel wrote it so
    cast_ND = hidden_ND.to(dtype)
    for start in range(0, weight_TD.shape[0], _UPCAST_ROWS):
        some = slice(start, start + _UPCAST_ROWS)
        grad_NS = grad_NT[:, some].to(dtype)
        if grad_hidden_ND is not None:
            grad_hidden_ND.add_(grad_NS @ weight_TD[some].to(dtype))
        if grad_weight_TD is not None:
            share_SD = grad_NS.t() @ cast_ND
            grad_weight_TD[some] = grad_weight_TD[some] + share_SD if accumulate else share_SD
