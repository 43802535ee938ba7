"""Which ids end a response."""

from __future__ import annotations

from typing import Any

from rgopd.common.errors import ConfigError


def eos_ids(*sources: Any) -> frozenset[int]:
    """Every `eos_token_id` (one, several or none) of generation config, model config and tokenizer.

    Raises:
        ConfigError: none of them has one: no response would ever end.
    """
    found: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    if not found:
        raise ConfigError("the student has no EOS token; set eos_token_id in its generation_config.json")
    return frozenset(found)
