"""Names that transformers gives the key-value cache: `past_key_values` up to 5.23, `cache` since.

The old name still works in newer versions, with a warning and until 5.40. Needs neither torch nor transformers, so that
teacher and sampler can share it.
"""

from __future__ import annotations

import inspect
from typing import Any


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument of `model.forward` that takes the cache, with `cache` in it."""
    forward = type(model).forward
    if forward not in _NAMES:
        _NAMES[forward] = "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
    return {_NAMES[forward]: cache}


_NAMES: dict[Any, str] = {}
"""By forward: a decoding loop asks once a token."""


def cache_of(output: Any) -> Any:
    """The cache in what a model's forward returned; None where it made none."""
    return output.cache if hasattr(output, "cache") else output.past_key_values
