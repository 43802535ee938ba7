"""Writing a policy version: what `rgopd.common.policies` announces and samplers load."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rgopd.common.policies import digest

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Of every tensor, by name, all of one dtype."""

_IN_FLIGHT = 8
"""Tensors on their way to the file and into its checksum while the next ones are gathered."""
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


def write_weights(folder: Path, state: Mapping[str, Tensor], config: Any) -> str:
    """Write a Hugging Face folder (weights and config) aside, then rename it into place; see `stream_weights`."""
    shapes = {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}
    return stream_weights(folder, shapes, ((name, state[name]) for name in sorted(state)), config)


def stream_weights(folder: Path, shapes: Shapes, tensors: Iterable[tuple[str, Tensor]], config: Any) -> str:
    """The same from tensors that come one by one, in the order of their names: none is held longer than it is written.

    Returns the folder's `digest`, made while writing. Where the same weights are there already (a resumed run publishes
    again) the folder stays as it is: a sampler may be reading it.
    """
    partial = beside(folder)
    sha256 = write_safetensors(partial / "model.safetensors", shapes, tensors)
    config.save_pretrained(partial)
    return into_place(partial, folder, sha256)


def beside(folder: Path) -> Path:
    """An empty folder to write into, for `into_place`."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def into_place(partial: Path, folder: Path, sha256: str) -> str:
    """Rename a written folder to its own name, unless the same is there; returns `sha256`, its digest."""
    if folder.exists() and digest(folder) == sha256:
        shutil.rmtree(partial)
        return sha256
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return sha256


def write_safetensors(path: Path, shapes: Shapes, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """One file, byte for byte what safetensors' own `save_file` writes of tensors of one dtype, and its sha256.

    Disk, checksum and whatever makes the next tensor work at the same time, each in the order of the names.

    Raises:
        ValueError: the tensors are not those of `shapes`, in the order of their names.
    """
    sha = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as hasher:
        started: deque[Future[Any]] = deque()
        for block in _blocks(shapes, tensors):
            started += (writer.submit(_write, file, block), hasher.submit(sha.update, block))
            while len(started) > 2 * _IN_FLIGHT:
                started.popleft().result()
        for future in started:
            future.result()
    path.chmod(0o600)  # as safetensors leaves it
    return sha.hexdigest()


def _blocks(shapes: Shapes, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[memoryview]:
    names, offset = sorted(shapes), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name in names:
        dtype, shape = shapes[name]
        end = offset + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name, tensor in tensors:
        dtype, shape = shapes[name]
        if not names or names.pop(0) != name or tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ValueError(f"weights came in another order or shape than announced: {name} {[*tensor.shape]}")
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    if names:
        raise ValueError(f"weights that were announced did not come: {names[:3]}")


def _write(file: BinaryIO, block: memoryview) -> None:
    file.write(block)
