"""How to call torch's variable-length attention, whose arguments grew between versions. Imports no torch itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def varlen_call(
    known: Collection[str], query: Any, key: Any, value: Any, *, scale: float, causal: bool, window: int = 0
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Query, key, value ``[N, H, D]`` and the options with which `varlen_attn` does what is asked.

    Args:
        known: the names of its parameters; what is missing is done to the tensors beforehand.
        window: how many tokens one sees, itself included; 0: all. Only where "window_size" is known.
    """
    options: dict[str, Any] = {}
    if "window_size" in known:
        options["window_size"] = (window - 1 if window else -1, 0 if causal else -1)
    else:
        options["is_causal"] = causal
    if "scale" in known:
        options["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return query, key, value, options
