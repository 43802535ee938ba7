"""What is known of a model without its weights: its tokenizer, and how many ids it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.common.models import at_hand


def load_tokenizer(name: str, setting: str) -> Any:
    """A tokenizer by folder or id; raises ConfigError naming the setting."""
    from transformers import AutoTokenizer

    at_hand(setting, name)
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting}: no tokenizer can be loaded from {name!r}: {error}") from error


def model_vocabulary(name: str, at_least: int) -> int:
    """Ids of a model, padding rows included; of its tokenizer where there is no config."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except (OSError, ValueError):
        return at_least
    return max(at_least, int(getattr(config.get_text_config(), "vocab_size", 0)))
