"""torch.compile of whole decoder layers: under FSDP2's hooks and activation checkpointing, above none of the head.

A layer is one graph where its attention is (`batch/varlen`: a GPU in 16 bits; padded rows), and several around it
elsewhere. All layers share their graphs; token counts are dynamic.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.trainer.student.recompute import Checkpointing

Compile = Literal["auto", "off", "layers"]
ON_CUDA = False
"""What `auto` is on a GPU: off until benchmarks/gpu/run.py has shown on one that it wins (decision 026)."""
_GRAPHS = 64
"""Of one kind of layer: with gradients and without, windows and none, adapters on and off, each is one."""


def backend_of(how: Compile, backend: str, device_type: str) -> str:
    """The backend of torch.compile that the settings ask for; empty: none."""
    if how == "off":
        return ""
    if how == "auto" and not backend:
        return "inductor" if ON_CUDA and device_type == "cuda" else ""
    return backend or "inductor"


def check_backend(backend: str, device_type: str) -> None:
    """Raises ConfigError where torch knows no such backend, or inductor would find no compiler on this machine."""
    known = torch._dynamo.list_backends(None)
    if backend not in known:
        hint = did_you_mean(backend, known)
        raise ConfigError(f"compile_backend={backend!r}: torch knows {', '.join(known)}{hint}")
    if backend == "inductor" and not _compiler(device_type):
        raise ConfigError(
            "compile=layers: torch's inductor needs a C++ compiler, and there is none on this machine; install g++ "
            "(apt-get install g++), or set compile=off"
        )


def _compiler(device_type: str) -> str | None:
    variable, names = ("CC", ("cc", "gcc", "clang")) if device_type == "cuda" else ("CXX", ("g++", "clang++", "c++"))
    return next(
        (found for name in (os.environ.get(variable, ""), *names) if name and (found := shutil.which(name))), None
    )


def compile_layers(layers: list[nn.Module], backend: str, checkpointing: Checkpointing) -> None:
    """Exchange each layer's forward, below the hooks that FSDP2 will put around it.

    `checkpointing` True makes a compiled layer again in backward; for "selective" nothing is to be done, since what is
    cheap between products and attention is made again by every compiled backward.

    Raises:
        ConfigError: there are no layers.
    """
    if not layers:
        raise ConfigError("compile=layers: this architecture has no list of decoder layers; set compile=off")
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(_GRAPHS, settings.recompile_limit)
    for layer in layers:
        compiled: Any = torch.compile(layer.forward, backend=backend, dynamic=True)
        layer.forward = partial(checkpoint, compiled, use_reentrant=False) if checkpointing is True else compiled


@contextmanager
def explained() -> Iterator[None]:
    """What torch.compile could not do as a ConfigError that names the setting."""
    try:
        yield
    except _failures() as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"compile=layers: torch {torch.__version__} cannot compile this student's layers ({first[:300]}); "
            "set compile=off"
        ) from error


def _failures() -> type[Exception]:
    """Imported when there is one: it takes a second."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


@contextmanager
def as_written() -> Iterator[None]:
    """Compiled layers run as they are written for a while."""
    with torch.compiler.set_stance("force_eager"):
        yield
