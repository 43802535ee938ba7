"""The files rollouts/step-NNNNNN*.jsonl.gz: names, writing, packed arrays, and their bound. `kept` reads them.

One file a rank and step: gzip over JSON lines, told apart by `kind`. Arrays are base64 of little-endian bytes, since a
step's numbers written as text would take longer than 1% of a small step.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgopd.common import fleeting

FOLDER = "rollouts"
FORMAT = 1
_NAME = re.compile(r"^step-(\d{6,})(?:\.rank-(\d{3,}))?\.jsonl\.gz$")
_DTYPES = {"i4": "<i4", "f4": "<f4", "f2": "<f2", "u1": "<u1"}


def kept_files(run: Path) -> list[tuple[Path, int, int]]:
    """(path, step, rank) of every part, in no order."""
    found = []
    for path in fleeting.listed(run / FOLDER):
        if match := _NAME.match(path.name):
            found.append((path, int(match.group(1)), int(match.group(2) or 0)))
    return found


def step_path(run: Path, step: int, rank: int = 0) -> Path:
    """Where a rank puts its part of a step."""
    return run / FOLDER / (f"step-{step:06d}" + (f".rank-{rank:03d}" if rank else "") + ".jsonl.gz")


def write_step(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Whole or not at all; returns the file's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = gzip.compress(text.encode("utf-8", "surrogatepass"), 1, mtime=0)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return len(data)


def pack(array: NDArray[Any], dtype: str) -> dict[str, str]:
    """An array as {dtype: base64}; dtype i4, f4, f2 or u1."""
    with np.errstate(over="ignore"):  # float16 ends at -65504: what is below reads as -inf
        data = np.ascontiguousarray(array, dtype=_DTYPES[dtype])
    return {dtype: base64.b64encode(data.tobytes()).decode("ascii")}


def unpack(value: Mapping[str, str]) -> NDArray[Any]:
    """Inverse of `pack`, flat."""
    ((dtype, text),) = value.items()
    return np.frombuffer(base64.b64decode(text), dtype=_DTYPES[dtype])


def thin(run: Path, newest: int, max_bytes: int) -> list[int]:
    """Delete steps until all files hold at most `max_bytes`; returns the steps that went.

    The `newest` steps stay as long as the others suffice. Of the older ones those go first whose number has the fewest
    factors of 2, the oldest first: what is left is spread over the run, and step 0 goes last.
    """
    sizes: dict[int, int] = {}
    for path, step, _ in kept_files(run):
        sizes[step] = sizes.get(step, 0) + (fleeting.size(path) or 0)
    steps = sorted(sizes)
    recent = set(steps[-newest:]) if newest else set()
    order = sorted(steps, key=lambda s: (s in recent, _twos(s) if s not in recent else 0, s))
    total, gone = sum(sizes.values()), []
    for step in order[:-1]:
        if total <= max_bytes:
            break
        remove_steps(run, [step])
        total -= sizes[step]
        gone.append(step)
    return gone


def remove_steps(run: Path, steps: Iterable[int]) -> None:
    """Delete all ranks' files of some steps."""
    wanted = set(steps)
    for path, step, _ in kept_files(run):
        if step in wanted:
            path.unlink(missing_ok=True)


def _twos(step: int) -> int:
    return 64 if step == 0 else (step & -step).bit_length()
