"""Weights beside their config.json, and adapters beside the layers that they name: before anything is loaded.

The model is built without memory (on torch's meta device); of the files, the headers are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_whole, loading, quantised
from rgopd.common.weight_files import stored_shapes

Shape = tuple[int, ...]


def check_shapes(setting: str, name: str) -> None:
    """Refuse a folder whose safetensors have other shapes than its config.json says, or lack some of its tensors.

    Says nothing of hub ids, of other formats, and of architectures whose files transformers rewrites as it reads them.

    Raises:
        ConfigError: names the setting, a tensor and both shapes.
    """
    stored = stored_shapes(Path(name))
    if not stored or (model := _model(setting, name)) is None or quantised(model.config.to_dict()):
        return
    expected = _expected(model)
    if expected is None:
        return
    if ({name for name, _ in model.named_parameters()} - expected.keys()) & stored.keys():
        return  # stored by the names that transformers holds them under, fused experts say: the loader tells
    prefix = f"{model.base_model_prefix}."
    missing = []
    for key, shape in expected.items():
        found = next((k for k in (key, key.removeprefix(prefix), prefix + key) if k in stored), None)
        if found is None:
            missing.append(key)
        elif stored[found] != shape:
            raise ConfigError(
                f"{setting}: {name}: {found} is {_written(stored[found])} in its safetensors, and its config.json asks "
                f"for {_written(shape)}: one of the two is another model's; copy or download the folder again"
            )
    # A composite one's, and those of another time, stand under other names, which transformers knows.
    if model.config.get_text_config() is model.config and len(missing) < len(expected):
        check_whole(setting, name, {"missing_keys": _truly_missing(model, missing, expected)})


def check_adapters(student: str, targets: list[str] | str) -> None:
    """Refuse `lora.target_modules` that name no linear layer of a student whose folder is here."""
    if not (Path(student) / "config.json").is_file() or (model := _model("student", student)) is None:
        return
    from rgopd.trainer.student.lora import check_targets

    check_targets(model, targets)


def _model(setting: str, name: str) -> Any:
    """The causal LM of a folder's config.json, on the meta device; None where it cannot be built there."""
    return _built(setting, name, (Path(name) / "config.json").stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _built(setting: str, name: str, _written_ns: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with loading(setting, name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, ImportError, LookupError):
        return None  # the loader tells, with the weights at hand


def _expected(model: Any) -> dict[str, Shape] | None:
    """The shapes that its parameters are stored in, by the names of the files."""
    from transformers.core_model_loading import revert_weight_conversion

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    try:
        stored = revert_weight_conversion(model, dict(parameters))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError):
        return None
    return {name: tuple(tensor.shape) for name, tensor in stored.items()}


def _truly_missing(model: Any, missing: list[str], expected: Mapping[str, Shape]) -> list[str]:
    """Without those that transformers takes from elsewhere: tied ones, and such as the architecture does without."""
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shared = {*tied, *(tied.values() if isinstance(tied, Mapping) else ())}
    return [key for key in missing if key not in shared and not any(pattern.search(key) for pattern in ignored)]


def _written(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "one number"
