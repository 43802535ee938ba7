"""Selective activation checkpointing: products and attention are kept, what is cheap between them is made again."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

Checkpointing = bool | Literal["selective"]
"""True: a layer keeps its input alone. ``selective``: the outputs of its products and its attention too, so that
backward makes norms, activations and rotations again, which cost next to nothing, and no product."""

KEPT = frozenset(
    ["aten::mm", "aten::addmm", "aten::bmm", "aten::_grouped_mm", "torch_attn::_varlen_attn"]
    + ["flash_attn::_flash_attn_varlen_forward", "aten::_flash_attention_forward"]
    + [f"aten::_scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn")]
    + ["aten::_scaled_dot_product_flash_attention_for_cpu"]
)


def contexts() -> Any:
    """For `torch.utils.checkpoint`'s `context_fn`."""
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(_context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    kept = isinstance(operator, torch._ops.OpOverload) and operator._schema.name in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def arguments(how: Checkpointing) -> dict[str, Any]:
    """What transformers passes on to `torch.utils.checkpoint`."""
    return {"use_reentrant": False} | ({"context_fn": contexts} if how == "selective" else {})
