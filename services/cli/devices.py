"""Which GPUs each process of a machine computes on, and how much of one vLLM may take: for `rgopd up` and `rgopd plan`.

`up.gpus` says; where it does not, trainer ranks come from GPU 0 on, the teacher after them, and samplers on what is
left, or, where nothing is, beside the ranks. Several samplers share their GPUs out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rgopd.cli.sections import UpConfig

SHARE = 0.9
"""Of a GPU's memory, that vLLM takes where nothing else computes on it: vLLM's own default."""


@dataclass(frozen=True)
class Wanted:
    """GPUs that the processes of a run want: `teacher` and `sampler` are the width of one process."""

    train: int
    teacher: int
    sampler: int
    samplers: int


def place(up: UpConfig, wanted: Wanted, count: int | None = None) -> dict[str, list[str]]:
    """The devices of "train", "teacher" and "sampler-0", "sampler-1"...; names as CUDA_VISIBLE_DEVICES takes them.

    Args:
        count: GPUs of the machine; None: as many as it takes.
    """
    train = named(up, "train") or _range(0, wanted.train, count)
    teacher = named(up, "teacher") or _range(wanted.train, wanted.teacher, count)
    placed = {"train": train, "teacher": teacher}
    given = named(up, "sampler")
    if not given and count is not None:
        given = [gpu for gpu in _range(0, count, count) if gpu not in {*train, *teacher}]
    given = given or train
    for index in range(wanted.samplers):
        first, width = index * wanted.sampler, wanted.sampler
        placed[f"sampler-{index}"] = list(dict.fromkeys(given[(first + j) % len(given)] for j in range(width)))
    return placed


def ranks(wanted: int, gpus: Sequence[str], device: str = "auto") -> tuple[int, str]:
    """Trainer processes on these GPUs, and what to say where they are fewer than wanted: two cannot share one (NCCL).

    The loss does not depend on how many there are; on a CPU, or without a GPU, there are as many as wanted.
    """
    if device == "cpu" or not gpus or wanted <= len(gpus):
        return wanted, ""
    on = "one GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
    return len(gpus), f"train.nproc={len(gpus)} instead of {wanted}: the trainer has {on}, and each rank needs its own"


def named(up: UpConfig, role: str) -> list[str]:
    """The GPUs that `up.gpus` names for a role: numbers, or UUIDs."""
    return [word.strip() for name, devices in up.gpus.items() if name == role for word in str(devices).split(",")]


def _range(first: int, width: int, count: int | None) -> list[str]:
    numbers = range(first, first + width)
    return [str(n) for n in numbers] if count is None else list(dict.fromkeys(str(n % count) for n in numbers))


def shares(placed: Mapping[str, list[str]], *, takes_turns: bool) -> dict[str, float]:
    """How much of its GPUs each process may take where it is vLLM: what all of them take is divided evenly.

    takes_turns: samplers and trainer are colocated, so that they never compute at once.
    """
    here = Counter(gpu for gpus in placed.values() for gpu in gpus)
    found = {}
    for name, gpus in placed.items():
        many = max((here[gpu] for gpu in gpus), default=1)
        if takes_turns and name.startswith("sampler") and set(gpus) & set(placed.get("train", [])):
            many -= 1
        found[name] = round(SHARE / max(1, many), 3)
    return found


def visible(devices: list[str]) -> str:
    """CUDA_VISIBLE_DEVICES for devices that were counted: numbers are those of what this process itself may see."""
    mine = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    return ",".join(mine[int(d)] if d.isdigit() and int(d) < len(mine) else d for d in devices)
