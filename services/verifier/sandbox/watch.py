"""The clock and the memory of a running child, looked at every tick."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rgopd.verifier.sandbox import kernel
from rgopd.verifier.sandbox.limits import Limits

_PATIENCE = 4.0  # how many times its wall limit a child that is kept from running may take
_LOOK_EVERY_S = 0.05
_MOST_FILES = 4096


class Watch:
    """Decides when a child is over its limits.

    `starved_s` is how long the child, or one that it waits for, was runnable and another process had the CPU: on a busy
    machine wall time says little, so that time is not counted, up to `_PATIENCE` times the limit.

    `memory`: sum up the tree's memory too, where no cgroup does it. `folder`: measure what is written there, where
    no tmpfs bounds it. Both overshoot by what can be done in 50 ms.
    """

    def __init__(self, memory: bool = False, folder: str = "") -> None:
        self.memory = memory
        self.folder = folder
        self.starved_s = 0.0
        self.looked = 0.0

    def over(self, pid: int, limits: Limits, wall_s: float, beside: Iterable[int] = ()) -> str:
        """'' or which limit the child is over: "cpu", "wall", "memory", "starved".

        `beside`: the others of its check. A candidate and its checker talk: while one is starved, the other sleeps.
        """
        try:
            if kernel.process_cpu_seconds(pid) > limits.cpu_s:
                return "cpu"
        except OSError:  # it has just ended
            return ""
        if wall_s - self.looked > _LOOK_EVERY_S:
            self.looked = wall_s
            if self.memory and sum(map(_private_kb, descendants())) > limits.memory_mb << 10:
                return "memory"
            if self.folder and _too_full(self.folder, limits.file_mb << 20):
                return "files"
        return self._too_long(pid, limits.wall_s, wall_s, beside) if wall_s > limits.wall_s else ""

    def _too_long(self, pid: int, limit_s: float, wall_s: float, beside: Iterable[int]) -> str:
        self.starved_s = sum(map(_run_delay, (pid, *beside)))
        # A process that competes with its own children is not starved by the machine
        if wall_s - self.starved_s > limit_s or _has_children(pid):
            return "wall"
        return "starved" if wall_s > limit_s * _PATIENCE else ""


def _too_full(folder: str, limit_bytes: int) -> bool:
    """More bytes or more entries below a folder than allowed; stops counting there."""
    used = entries = 0
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as listing:
                for entry in listing:
                    entries += 1
                    used += _blocks(entry) * 512
                    if used > limit_bytes + (1 << 20) or entries > _MOST_FILES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:  # gone or closed meanwhile
            continue
    return False


def _blocks(entry: os.DirEntry[str]) -> int:
    """0 where it has just been deleted: code that deletes files all the time must not end the count at the first."""
    try:
        return entry.stat(follow_symlinks=False).st_blocks
    except OSError:
        return 0


def _has_children(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return bool(file.read().strip())
    except OSError:
        return False


def descendants() -> list[int]:
    """All processes under this one. It is pid 1 of a namespace or a subreaper, so none escapes the tree."""
    children: dict[int, list[int]] = {}
    for name in _listing():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _listing() -> list[str]:
    try:
        return os.listdir("/proc")
    except OSError:
        return []


def _run_delay(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _private_kb(pid: int) -> int:
    """Anonymous and shared memory; code pages are the zygote's and cost nothing."""
    total = 0
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return total
