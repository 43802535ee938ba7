"""A model whose weights are still in its files: built without them, filled a layer at a time while it is sharded.

`from_pretrained` holds the whole float32 model on every rank before FSDP2 takes a share of it: eight ranks of a 14B
student want 450 GB of host memory. Here a rank holds its share, one layer, and what is outside of the layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import cached_file

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class NotStored(Exception):
    """These files cannot be read tensor by tensor into this model; the text says why."""


class Stored:
    """The safetensors files of a model, by the names of its parameters.

    Args:
        files: where each tensor is.
        model: with parameters on the meta device.
    """

    def __init__(self, files: dict[str, Path], model: nn.Module) -> None:
        self.files = files
        self.model = model

    def fill(self, part: nn.Module) -> None:
        """Read those parameters of a part that are not there yet, in float32 on the CPU; tied ones stay tied."""
        wanted = {id(p) for p in part.parameters() if p.is_meta}
        read: dict[int, nn.Parameter] = {}
        for name, parameter in list(self.model.named_parameters(remove_duplicate=False)):
            if id(parameter) not in wanted:
                continue
            if id(parameter) not in read:
                if (source := self._name_of(parameter)) is None:
                    raise NotStored(f"no tensor for {name}")
                value = nn.Parameter(self._read(source), requires_grad=parameter.requires_grad)
                read[id(parameter)] = value
            owner, _, leaf = name.rpartition(".")
            self.model.get_submodule(owner)._parameters[leaf] = read[id(parameter)]

    def fill_buffers(self) -> None:
        """Those that the files hold; the others are as the model's constructor made them."""
        for name, buffer in self.model.named_buffers():
            if name in self.files:
                buffer.copy_(self._read(name))

    def check(self) -> None:
        """Raises NotStored where a parameter has no tensor of its shape, or is stored otherwise than it is held."""
        like = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        stored = revert_weight_conversion(self.model, dict(like))
        if not all(stored.get(name) is tensor for name, tensor in like.items()):
            raise NotStored("its architecture holds tensors otherwise than it stores them")
        for name, parameter in self.model.named_parameters():
            if not parameter.is_meta:
                raise NotStored(f"{name} is made by its constructor")
            if (source := self._name_of(parameter)) is None:
                raise NotStored(f"no tensor is called {name}")
            with safe_open(self.files[source], "pt") as file:
                shape = file.get_slice(source).get_shape()
            if [*parameter.shape] != shape:
                raise NotStored(f"{source} is {shape} and not {[*parameter.shape]}")

    def _name_of(self, parameter: Tensor) -> str | None:
        named = self.model.named_parameters(remove_duplicate=False)
        names = (n.replace(".base_layer.", ".") for n, p in named if p is parameter)  # beside adapters
        return next((name for name in names if name in self.files), None)

    def _read(self, name: str) -> Tensor:
        with safe_open(self.files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        # A copy also of what is float32: the file's own memory is a mapping that ends with it.
        return tensor.to(torch.float32, copy=True)


def open_stored(path: str) -> tuple[Any, Stored]:
    """The causal LM of a Hugging Face folder or id, in evaluation mode with its parameters on the meta device, and what
    fills it.

    Raises:
        NotStored: it has no such files, or they do not fit name by name; `from_pretrained` may know what to do.
    """
    files = _files(path)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    stored = Stored(files, model)
    stored.check()
    stored.fill_buffers()
    if _file(path, "generation_config.json") is not None:
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model, stored


def _files(path: str) -> dict[str, Path]:
    if (index := _file(path, _INDEX)) is not None:
        shards = {name: _file(path, name) for name in set(json.loads(index.read_text())["weight_map"].values())}
    else:
        shards = {_ONE: _file(path, _ONE)}
    found: dict[str, Path] = {}
    for name, shard in shards.items():
        if shard is None:
            raise NotStored(f"it has no {name}")
        with safe_open(shard, "pt") as file:
            found |= dict.fromkeys(file.keys(), shard)
    return found


def _file(path: str, name: str) -> Path | None:
    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules that are built within it hold no parameters, but the buffers that their constructors compute."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """Parameters on the meta device are on the CPU for a while, each one number in 4 bytes: for what asks where they
    are. peft puts adapters there, and those are to be real."""
    meta = {id(p): p for p in model.parameters() if p.is_meta}
    stands = {
        key: nn.Parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), requires_grad=p.requires_grad)
        for key, p in meta.items()
    }
    _exchange(model, stands)
    try:
        yield
    finally:
        for key, stand in stands.items():
            meta[key].requires_grad_(stand.requires_grad)
        _exchange(model, {id(stand): meta[key] for key, stand in stands.items()})


def _exchange(model: nn.Module, by_id: dict[int, nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in by_id:
                module._parameters[name] = by_id[id(parameter)]
