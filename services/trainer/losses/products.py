"""The products with the head's weight, forward and backward: BLAS does them under either `TileMath`."""

from __future__ import annotations

from functools import lru_cache

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
    elif has_wide_products(hidden_CD.device, hidden_CD.dtype):
        torch.mm(hidden_CD, weight_TD.t(), out_dtype=out.dtype, out=out)
    elif hidden_CD.is_cuda:
        out.copy_(hidden_CD @ weight_TD.t())  # torch before 2.8: the logits that the model's own head would give
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
    if hidden_ND.is_cuda or has_wide_products(hidden_ND.device, hidden_ND.dtype):
        narrow_NT = grad_NT.to(hidden_ND.dtype)  # narrow already where a kernel wrote it so
        if grad_hidden_ND is not None:
            add_product(grad_hidden_ND, narrow_NT, weight_TD, accumulate=True)
        if grad_weight_TD is not None:
            add_product(grad_weight_TD, narrow_NT.t(), hidden_ND, accumulate=accumulate)
        return
    dtype = grad_NT.dtype
    cast_ND = hidden_ND.to(dtype)
    for start in range(0, weight_TD.shape[0], _UPCAST_ROWS):
        some = slice(start, start + _UPCAST_ROWS)
        grad_NS = grad_NT[:, some].to(dtype)
        if grad_hidden_ND is not None:
            grad_hidden_ND.add_(grad_NS @ weight_TD[some].to(dtype))
        if grad_weight_TD is not None:
            share_SD = grad_NS.t() @ cast_ND
            grad_weight_TD[some] = grad_weight_TD[some] + share_SD if accumulate else share_SD


def add_product(into_AB: Tensor, left_AC: Tensor, right_CB: Tensor, *, accumulate: bool) -> None:
    """``into = [into +] left @ right``, summed in float32 within the product whatever the operands are, and rounded to
    ``into``'s dtype once; in place, and in one kernel where the device has the product for it."""
    if into_AB.dtype == left_AC.dtype:
        if accumulate:
            into_AB.addmm_(left_AC, right_CB)
        else:
            torch.mm(left_AC, right_CB, out=into_AB)
    elif has_wide_products(left_AC.device, left_AC.dtype):
        if accumulate:
            torch.addmm(into_AB, left_AC, right_CB, out_dtype=into_AB.dtype, out=into_AB)
        else:
            torch.mm(left_AC, right_CB, out_dtype=into_AB.dtype, out=into_AB)
    elif accumulate:
        into_AB.add_(left_AC @ right_CB)
    else:
        into_AB.copy_(left_AC @ right_CB)


@lru_cache
def has_wide_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch multiplies 16-bit matrices into a float32 one on this device: asked once, by doing it."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    left, right = torch.zeros(16, 16, dtype=dtype, device=device), torch.eye(16, dtype=dtype, device=device)
    out = torch.ones(16, 16, dtype=torch.float32, device=device)
    try:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
        torch.addmm(out, right, right, out_dtype=torch.float32, out=out)
    except (TypeError, RuntimeError):  # an unknown argument; no such kernel on this device
        return False
    return bool((out == right).all())
