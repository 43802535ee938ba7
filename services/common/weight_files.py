"""Whether a model folder's weights are whole, by their headers alone: no tensor is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError, told

_INDEX = "model.safetensors.index.json"
_LFS = b"version https://git-lfs"


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a folder's safetensors; empty where there are none that can be read."""
    if not (folder / "config.json").is_file():
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        index = folder / _INDEX
        named = _indexed("", index) if index.is_file() else [file.name for file in folder.glob("*.safetensors")]
        for name in named:
            shapes |= {key: tuple(map(int, tensor["shape"])) for key, tensor in _header(folder / name).items()}
    except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # `check_weights` tells
    return shapes


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as data:
        header: dict[str, Any] = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    return {key: tensor for key, tensor in header.items() if key != "__metadata__"}


def check_weights(setting: str, name: str) -> None:
    """Refuse a folder whose weights are missing, cut off, or pointers of git-lfs; says nothing of hub ids and .bin.

    Raises:
        ConfigError: names the setting, the file, and what to do.
    """
    folder = Path(name)
    if not (folder / "config.json").is_file():
        return
    files = sorted(folder.glob("*.safetensors"))
    index = folder / _INDEX
    if index.is_file():
        files = [folder / file for file in _indexed(setting, index)]
    elif not files and not any(folder.glob("*.bin")):
        raise ConfigError(f"{setting}: {name} holds no weights (*.safetensors): copy or download the folder again")
    for file in files:
        if problem := _problem(file):
            raise ConfigError(f"{setting}: {file} {problem}")


def _indexed(setting: str, index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{setting}: {index} is no index of weights: copy or download the folder again") from error
    except OSError as error:
        raise ConfigError(f"{setting}: {told(error)}") from error


def _problem(file: Path) -> str:
    """What is wrong with one safetensors file; empty: nothing. Its header has the length of what follows."""
    again = "copy or download it again"
    if not file.is_file():
        return f"is missing, and {_INDEX} names it: {again}"
    try:
        size = file.stat().st_size
        with file.open("rb") as data:
            start = data.read(8)
            if start + data.read(len(_LFS) - 8) == _LFS:
                return "is a pointer of git-lfs, not the weights: run `git lfs pull` in its folder"
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(size - 8, 100_000_000):
                return f"is cut off or no safetensors file: {again}"
            data.seek(8)
            header = json.loads(data.read(length))
        ends = [int(tensor["data_offsets"][1]) for key, tensor in header.items() if key != "__metadata__"]
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"is no safetensors file: {again}"
    wanted = 8 + length + max(ends, default=0)
    return "" if size >= wanted else f"is cut off: {size} bytes of {wanted}; {again}"
