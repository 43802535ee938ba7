"""What a setting that names a model may hold: a Hugging Face folder, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rgopd.common.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights and activations may be held in."""


def hub_problem(setting: str, name: str, error: Exception) -> str:
    """One line for what transformers and huggingface_hub say at length about a model that they could not get."""
    text = " ".join(str(error).split())
    if "gated" in text.lower():
        return f"{setting}: {name} is gated: accept its terms on the hub and log in with `hf auth login`"
    if any(word in text for word in ("couldn't connect", "offline", "Connection", "resolve", "Max retries")):
        return (
            f"{setting}: {name} is no folder here, and the hub cannot be reached: check the path, or download the "
            f"model where there is a network (`hf download {name}`) and name its folder"
        )
    if any(word in text for word in ("not a valid model identifier", "Repository Not Found", "is not a local folder")):
        return f"{setting}: {name} is no folder here, and the hub has no such model; check the spelling"
    return f"{setting}: {name} cannot be loaded: {text[:300]}"


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
