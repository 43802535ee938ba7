"""What this machine has, as far as a config depends on it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True)
class Hardware:
    """`gpus`: names of CUDA devices; `mps`: Apple's GPU. Memory in bytes."""

    system: str
    cores: int
    memory: int
    gpus: tuple[str, ...]
    gpu_memory: int
    mps: bool

    def __str__(self) -> str:
        found = f"{len(self.gpus)} x {self.gpus[0]} ({self.gpu_memory // GIB} GiB)" if self.gpus else "no GPU"
        if self.mps:
            found = "an Apple GPU (unused: training and scoring take the CPU there)"
        return f"{self.system}, {self.cores} cores, {self.memory // GIB} GiB, {found}"


def this_machine() -> Hardware:
    """Asks torch and the operating system."""
    import torch

    cuda = torch.cuda.is_available()
    gpus = tuple(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())) if cuda else ()
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else 0
    return Hardware(system(), cores(), total_memory(), gpus, memory, torch.backends.mps.is_available())


def system() -> str:
    """Linux, Linux in WSL, macOS or Windows."""
    name = platform.system()
    if name == "Linux" and "microsoft" in platform.release().lower():
        return "Linux in WSL"
    return {"Darwin": "macOS"}.get(name, name)


def cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of main memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def available_memory() -> int:
    """Bytes that new processes may take; all of it where the system tells no more, 0 where it tells nothing."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return total_memory()
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def cpu_speed() -> tuple[float, float, float]:
    """FLOP/s of a matrix product on all threads in float32 and in bfloat16, and bytes/s of a copy (read and written).

    One thread's own CPU time, the best of a few tries: so others that are at work on the machine hardly count.
    """
    import torch

    threads = torch.get_num_threads()
    square = torch.ones(768, 768)
    narrow = square.bfloat16()
    source = torch.ones(8 << 20)
    target = torch.empty_like(source)
    torch.set_num_threads(1)
    try:
        wide_s, narrow_s = (_best(lambda one=one: torch.mm(one, one)) for one in (square, narrow))  # type: ignore[misc]
        copied = _best(lambda: target.copy_(source))
    finally:
        torch.set_num_threads(threads)
    flops = threads * 2 * 768**3
    return flops / wide_s, flops / narrow_s, 2 * 4 * source.numel() / copied


def _best(work: Callable[[], object], tries: int = 8) -> float:
    seconds = []
    for _ in range(tries):
        started = time.thread_time()
        work()
        seconds.append(time.thread_time() - started)
    return max(1e-6, min(seconds))
