"""LoRA (arXiv 2106.09685) through peft: adapters train, the base is frozen, and what is published is merged.

Samplers (by default), the export and whoever loads the result see an ordinary model: they need neither peft nor the
adapters. `adapter` has the versions that are adapters alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.common.parts import Part

ADAPTER = "default"


class LoraOptions(Part):
    """Which layers get adapters, and of what size."""

    model_config = ConfigDict(frozen=True)

    word_key: ClassVar[str] = "r"

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, gt=0, description="Their output is scaled by alpha/r (alpha/sqrt(r) with rslora).")
    rslora: bool = Field(False, description="Rank-stabilised scaling, arXiv 2312.03732.")
    target_modules: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="Names of linear layers, e.g. [q_proj, v_proj]; all-linear: all but the head."
    )

    publish: Literal["merged", "adapter"] = Field(
        "merged",
        description="What samplers are given at each step: an ordinary model, or the adapters alone, which vLLM loads "
        "beside its base model (decision 156) and the transformers sampler merges.",
    )

    @property
    def scaling(self) -> float:
        """The factor before B A."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)


def add_adapters(model: Any, options: LoraOptions) -> Any:
    """Insert adapters into a causal LM in place and freeze the rest. B starts at 0: nothing changes yet.

    A is drawn from torch's generator: every rank must have the same seed.

    Raises:
        ConfigError: peft is not installed, or a layer is not there.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("lora needs peft: pip install 'rgopd[peft]'") from error
    check_targets(model, options.target_modules)
    settings = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # typed int, used as a factor
        use_rslora=options.rslora,
        target_modules=options.target_modules,
        lora_dropout=0.0,  # the policy that is trained must be the one that sampled
        task_type="CAUSAL_LM",
    )
    try:
        model = inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(f"lora.target_modules={options.target_modules!r}: {error}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return model


def check_targets(model: nn.Module, targets: list[str] | str) -> None:
    """Every name is one of a linear layer; peft is content with one of them.

    Raises:
        ConfigError: names those that are none, and the layers there are.
    """
    if isinstance(targets, str):
        return
    linear = [n for n, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ConfigError(
                f"lora.target_modules: the student has no linear layer {target!r}{did_you_mean(target, known)}; it has "
                f"{', '.join(known)}, or write all-linear"
            )
    if not targets:
        raise ConfigError(f"lora.target_modules is empty: name some of {', '.join(known)}, or write all-linear")


def merged(state: Mapping[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """Weights under their names without adapters: W + scaling * B A, computed in float32.

    Args:
        state: whole tensors of a model with adapters, by name.
    """
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        layer, found, kind = name.partition(".base_layer.")
        if found and kind == "weight":
            a_RI, b_OR = (state[f"{layer}.lora_{side}.{ADAPTER}.weight"].float() for side in "AB")
            value = (value.float() + scaling * (b_OR @ a_RI)).to(value.dtype)
        result[f"{layer}.{kind}" if found else name] = value
    return result


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The base model for a while: scale 0, so that nothing is moved, resharded or unfrozen."""
    from peft.tuners.lora import LoraLayer

    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    scales = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling.update(scale)
