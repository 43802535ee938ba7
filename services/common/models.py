"""What a setting that names a model may hold: a Hugging Face folder, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rgopd.common.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights and activations may be held in."""


def check_model(name: str, setting: str) -> None:
    """Refuse a path that is no model folder, before transformers takes it for a hub id.

    Raises:
        ConfigError: names the setting and what is wrong there.
    """
    looks_like_a_path = name.startswith(("/", ".", "~")) or name.count("/") > 1
    folder = Path(name)
    if not folder.exists():
        if looks_like_a_path:
            raise ConfigError(
                f"{setting}: {name} does not exist; give a Hugging Face folder, or a hub id like ORG/MODEL"
            )
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{setting}: {name} is no Hugging Face folder: it holds no config.json")
