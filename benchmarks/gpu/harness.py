"""What the sections of the GPU benchmark share: rows, clocks, peaks, and the time they have."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

GB = 1e9
AGAIN = 75
"""Exit status of a process whose CUDA context is lost: its section is to go on in a new one."""


@dataclass
class Row:
    """One measured figure, and what it stands beside."""

    section: str
    case: str
    value: float | None = None
    unit: str = ""
    relative: str = ""
    """Times the floor, MFU, or a share of the step."""
    predicted: float | None = None
    """By `roofline.py`, in the same unit."""
    memory_gb: float | None = None
    launches: int | None = None
    note: str = ""
    error: str = ""


class SkippedCase(Exception):
    """What a case needs is not installed: said in its row, and no failure."""


@dataclass
class Bench:
    """One section's run: `add` writes a row out at once, so that a section cut short keeps what it had."""

    section: str
    device: torch.device
    tiny: bool
    seconds: float
    work: str
    """A folder for models, shared by the sections."""
    done: frozenset[str] = frozenset()
    """Cases that an earlier process of the section has had."""
    started: float = field(default_factory=time.monotonic)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds that the section still has."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, case: str, value: float | None = None, unit: str = "", **more: Any) -> None:
        print("ROW " + json.dumps(asdict(Row(self.section, case, value, unit, **more))), flush=True)

    def case(self, name: str, measure: Callable[[], object], *, always: bool = False) -> None:
        """A case that fails, or comes too late, costs its own row and no other. `always`: others need what it finds."""
        if name in self.done and not always:
            return
        if self.left < 0:
            self.add(name, error="not run: the section's time was up")
            return
        print(f"CASE {name}", flush=True)
        lost = False
        try:
            measure()
        except SkippedCase as skipped:
            self.add(name, note=str(skipped))
        except Exception as error:  # noqa: BLE001 - a benchmark's outermost loop: it goes into the table and the status
            first = (str(error).splitlines() or [""])[0]
            self.add(name, error=f"{type(error).__name__}: {first[:160]}")
            traceback.print_exc()
            lost = self.cuda and "CUDA error" in str(error)
        print(f"DONE {name}", flush=True)
        if lost:  # no later call of CUDA would work
            os._exit(AGAIN)
        self.free()

    def free(self) -> None:
        """Models of a case are in cycles, and in what torch.compile made for them."""
        if (dynamo := sys.modules.get("torch._dynamo")) is not None:
            dynamo.reset()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds_of(self, call: Callable[[], object], repeats: int = 5, warm: int = 2, budget_s: float = 8.0) -> float:
        """Median of a call; fewer repeats where they would take longer than `budget_s`, never fewer than one."""
        for _ in range(1 if self.tiny else warm):
            call()
        self.sync()
        found, until = [], time.monotonic() + budget_s
        while not found or (len(found) < (2 if self.tiny else repeats) and time.monotonic() < until):
            began = time.perf_counter()
            call()
            self.sync()
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def peak_gb(self, call: Callable[[], object]) -> float | None:
        """Most memory that a call holds beyond what was held before it; None off CUDA."""
        if not self.cuda:
            return None
        self.sync()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.sync()
        return (torch.cuda.max_memory_allocated() - before) / GB

    def profile(self, call: Callable[[], object]) -> dict[str, tuple[float, int]]:
        """(seconds, launches) by kernel name; off CUDA by operator, so that the same code runs there."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CUDA] if self.cuda else [ProfilerActivity.CPU]
        with profile(activities=activities) as seen:
            call()
            self.sync()
        found: dict[str, tuple[float, int]] = {}
        for event in seen.key_averages():
            spent = event.self_device_time_total if self.cuda else event.self_cpu_time_total
            if spent > 0:
                found[event.key] = (spent / 1e6, event.count)
        return found


KINDS = {
    "collectives": ("nccl", "c10d", "all_gather", "reduce_scatter"),
    "attention": ("flash", "fmha", "attention", "sdpa", "softmax_warp"),
    "products": ("gemm", "cutlass", "nvjet", "cublas", "aten::mm", "addmm", "bmm", "matmul"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "copies": ("copy", "memcpy", "memset", "cat", "index", "gather", "scatter"),
}
"""By what a kernel's name holds, the first that fits; all else (norms, activations, reductions) is elementwise."""


def by_kind(profile: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """Sums of (seconds, launches) by kind."""
    found = dict.fromkeys((*KINDS, "elementwise"), (0.0, 0))
    for name, (seconds, count) in profile.items():
        low = name.lower()
        kind = next((k for k, words in KINDS.items() if any(word in low for word in words)), "elementwise")
        found[kind] = (found[kind][0] + seconds, found[kind][1] + count)
    return found
