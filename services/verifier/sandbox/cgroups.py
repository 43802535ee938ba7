"""A memory and process budget for a slot's whole tree: cgroup v1 or v2, where this process may make groups.

The slot's zygote joins once, before it forks; its children are born inside. Moving a process costs
milliseconds, so no child is ever moved.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_STALE_S = 60  # a group is filled at once, or by a process of another pid namespace
_OVERHEAD_MB = 96  # the zygote and the checker


class SlotGroup:
    """The group of one slot.

    Args:
        memory: the group's folder in the memory hierarchy.
        pids: the group's folder in the pids hierarchy (the same one in v2).
    """

    def __init__(self, memory: Path, pids: Path) -> None:
        self.memory = memory
        self.pids = pids
        self._budget = (0, 0)
        self._events = -1  # kept open: it is read at every check

    @property
    def version(self) -> int:
        """1 or 2."""
        return 2 if self.memory == self.pids else 1

    @classmethod
    def create(cls, name: str) -> SlotGroup | None:
        """A new group, or None where that is not possible (no controller, read-only, no right)."""
        for folders in (_v2_parents(), _v1_parents()):
            if folders is None:
                continue
            for folder in set(folders):
                _sweep(folder)
            memory, pids = (folder / name for folder in folders)
            try:
                memory.mkdir()
                if pids != memory:
                    pids.mkdir()
                group = cls(memory, pids)
                group.limit(512, 64)
            except OSError:
                for folder in (memory, pids):
                    _remove(folder)
                continue
            return group
        return None

    def add(self, pid: int) -> None:
        """Put a process, and all it will fork, into the group."""
        for folder in {self.memory, self.pids}:
            (folder / "cgroup.procs").write_text(str(pid))

    def limit(self, memory_mb: int, processes: int) -> None:
        """Set the budget of the next check."""
        if (memory_mb, processes) == self._budget:
            return
        (self.pids / "pids.max").write_text(str(processes + 8))
        amount = str((memory_mb + _OVERHEAD_MB) << 20)
        if self.version == 2:
            (self.memory / "memory.max").write_text(amount)
            _write_if_there(self.memory / "memory.swap.max", "0")
        else:
            (self.memory / "memory.limit_in_bytes").write_text(amount)
            _write_if_there(self.memory / "memory.swappiness", "0")
        self._budget = (memory_mb, processes)

    def oom_kills(self) -> int:
        """How many processes of the group the kernel has killed for memory."""
        if self._events < 0:
            name = "memory.events" if self.version == 2 else "memory.oom_control"
            self._events = os.open(self.memory / name, os.O_RDONLY | os.O_CLOEXEC)
        for line in os.pread(self._events, 4096, 0).decode().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def close(self) -> None:
        """Remove the group; its processes are gone by now."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
        for folder in {self.memory, self.pids}:
            _remove(folder)


def _sweep(parent: Path) -> None:
    """Remove groups of services that were killed before they could. Only an empty group can be removed at all."""
    for folder in parent.glob("rgopd-*-*"):
        pid = folder.name.split("-")[1]
        try:
            if not os.path.exists(f"/proc/{pid}") and time.time() - folder.stat().st_mtime > _STALE_S:
                folder.rmdir()
        except OSError:  # in use after all, or gone
            continue


def _remove(folder: Path) -> None:
    for _ in range(50):  # the kernel lets go of a dead namespace's processes a little later
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)


def _write_if_there(file: Path, text: str) -> None:
    if file.exists():
        try:
            file.write_text(text)
        except OSError:  # a hint, not a limit
            pass


def _v2_parents() -> tuple[Path, Path] | None:
    controllers = _ROOT / "cgroup.controllers"
    if not controllers.exists() or not {"memory", "pids"} <= set(controllers.read_text().split()):
        return None
    try:  # groups with controllers must not hold processes, so ours hang off the root, not off our own group
        (_ROOT / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError:
        return None
    return _ROOT, _ROOT


def _v1_parents() -> tuple[Path, Path] | None:
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path))
    found = []
    for controller in ("memory", "pids"):
        folder = _ROOT / controller / own.get(controller, "/").lstrip("/")
        if not folder.is_dir():
            folder = _ROOT / controller
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return None
        found.append(folder)
    return found[0], found[1]
