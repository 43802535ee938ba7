"""Policy versions that are adapters alone: what changes in a LoRA run, a few per cent of the weights.

In peft's format, which vLLM loads beside its base model without a restart and which `peft` itself reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from rgopd.trainer.student.lora import ADAPTER, LoraOptions, merged
from rgopd.trainer.student.model import Student, as_stored
from rgopd.trainer.student.weights import beside, into_place, write_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def adapter_weights(student: Student) -> dict[str, Tensor]:
    """The adapters in float32 on the CPU, under peft's names. On rank 0; empty elsewhere. Collective."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(student, options=options)
    return {
        _PREFIX + name.removeprefix("hf.").replace(f".{ADAPTER}.", "."): value.float()
        for name, value in state.items()
        if ".lora_" in name
    }


def write_adapter(folder: Path, state: Mapping[str, Tensor], options: LoraOptions, base: str) -> str:
    """Write a policy version of adapters, as `write_weights` does; returns its digest. `base`: whose they are."""
    modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in state})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": options.r,
        "lora_alpha": options.alpha,
        "use_rslora": options.rslora,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    partial = beside(folder)
    shapes = {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}
    sha256 = write_safetensors(partial / WEIGHTS, shapes, ((name, state[name]) for name in sorted(state)))
    (partial / CONFIG).write_text(json.dumps(config, indent=1))
    return into_place(partial, folder, sha256)


def merged_policy(folder: Path, base: str, options: LoraOptions, dtype: str) -> tuple[dict[str, Tensor], Any]:
    """The weights that `full_weights` would have published, and the model's config: made of an adapter's folder."""
    from transformers import AutoModelForCausalLM

    adapters = {
        name.removeprefix(_PREFIX).replace(".weight", f".{ADAPTER}.weight"): value
        for name, value in load_file(folder / WEIGHTS).items()
    }
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
    layers = {name.split(".lora_")[0] for name in adapters}
    state = {
        f"{layer}.base_layer.{kind}" if (layer := name.rpartition(".")[0]) in layers else name: value.detach()
        for name, value in model.named_parameters()
        for kind in [name.rpartition(".")[2]]
    }
    whole = merged(state | adapters, options.scaling)
    whole = {name: value.to(getattr(torch, dtype)) for name, value in whole.items()}
    return as_stored(model, whole), model.config
