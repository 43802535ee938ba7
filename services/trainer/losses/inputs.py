"""What the head's functions are asked to work on, checked once for all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def check_inputs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    sampled_ids_N: Tensor,
    support_ids_NK: Tensor,
    vocab: int,
    temperature: float,
    chunk_size: int | None,
    bias_V: Tensor | None = None,
    soft_cap: float = 0.0,
) -> None:
    """Raises ValueError saying what does not fit."""
    if type(weight_VD.data).__name__ == "DTensor":
        raise ValueError(
            "the head's weight is sharded; call this inside the forward of the module that owns it, "
            "where FSDP2 has gathered it, or pass weight.full_tensor()"
        )
    rows = hidden_ND.shape[0]
    if hidden_ND.ndim != 2 or weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"want hidden [N, D] and weight [V, D], got {[*hidden_ND.shape]}, {[*weight_VD.shape]}")
    if hidden_ND.dtype != weight_VD.dtype:
        raise ValueError(f"hidden is {hidden_ND.dtype} and weight {weight_VD.dtype}: cast one to the other's")
    if sampled_ids_N.shape != (rows,) or support_ids_NK.ndim != 2 or support_ids_NK.shape[0] != rows:
        raise ValueError(
            f"want sampled ids [{rows}] and support ids [{rows}, K], got {[*sampled_ids_N.shape]} and "
            f"{[*support_ids_NK.shape]}: one row per response token"
        )
    if bias_V is not None and bias_V.shape != weight_VD.shape[:1]:
        raise ValueError(f"want a bias [V] beside a weight [V, D], got {[*bias_V.shape]} and {[*weight_VD.shape]}")
    if soft_cap < 0.0:
        raise ValueError(f"soft_cap must be positive, or 0 for none, got {soft_cap}")
    if not 0 < vocab <= weight_VD.shape[0]:
        raise ValueError(f"vocab_size {vocab} does not fit a head of {weight_VD.shape[0]} rows")
    if not temperature > 0.0 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"temperature and chunk_size must be positive, got {temperature} and {chunk_size}")
    # All four at once: on a GPU each answer is waited for.
    ends = [end for ids in (sampled_ids_N, support_ids_NK) if ids.numel() for end in (ids.amin(), ids.amax())]
    found = iter(torch.stack(ends).tolist() if ends else [])
    for name, ids, lowest in (("sampled", sampled_ids_N, 0), ("support", support_ids_NK, -1)):
        if not ids.numel():
            continue
        smallest, largest = next(found), next(found)
        if smallest < lowest or largest >= vocab:
            raise ValueError(
                f"{name} ids must lie in [{lowest}, {vocab}), got {smallest}..{largest}: "
                "student, teacher and sampler must share one vocabulary"
            )
