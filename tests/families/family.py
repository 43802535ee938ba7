"""One entry of the list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One architecture of transformers."""

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    """Beside `build.SIZES`."""
    parts: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Of a composite one: each part's `model_type`, and what its config holds beside `build.SIZES`."""
    variant: str = ""
    packs: bool = True
    """False: trained on padded rows, by itself."""
    refused: str = ""
    """A piece of the one line that refuses it."""

    @property
    def name(self) -> str:
        """For people and for pytest."""
        return f"{self.model_type} ({self.variant})" if self.variant else self.model_type
