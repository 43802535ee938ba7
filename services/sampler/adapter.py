"""Policy versions that are adapters alone (`train.lora.publish: adapter`), in peft's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rgopd.common.errors import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def is_adapter(folder: Path) -> bool:
    """Whether a version is adapters alone."""
    return (folder / CONFIG).is_file()


class Merger:
    """Merges adapters into the student that they were trained on, as the trainer does when it publishes whole weights:
    W + scaling * B A in float32. Keeps a float32 copy of the layers that have adapters.

    Args:
        model: Hugging Face folder or id of that student.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._base: dict[str, Tensor] = {}

    def merged(self, folder: Path) -> dict[str, Tensor]:
        """The changed weights, float32, by the model's own names.

        Raises:
            ConfigError: the adapters are of another student.
        """
        config, state = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        layers = sorted({name.removeprefix(_PREFIX).split(".lora_")[0] for name in state})
        base = self._base_of([f"{layer}.weight" for layer in layers])
        result: dict[str, Tensor] = {}
        for layer in layers:
            a_RI, b_OR = (state[f"{_PREFIX}{layer}.lora_{side}.weight"].float() for side in "AB")
            result[f"{layer}.weight"] = base[f"{layer}.weight"] + scaling * (b_OR @ a_RI)
        return result

    def _base_of(self, names: list[str]) -> Mapping[str, Tensor]:
        if not self._base:
            from transformers import AutoModelForCausalLM

            own = AutoModelForCausalLM.from_pretrained(
                self._model, dtype=torch.float32, trust_remote_code=False
            ).state_dict()
            if missing := [name for name in names if name not in own]:
                raise ConfigError(
                    f"the adapters are of another model: {self._model} has no {missing[0]}; start the sampler from the "
                    "same student as the trainer"
                )
            self._base = {name: own[name] for name in names}
        return self._base
