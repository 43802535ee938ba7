"""A run's moments, read from its folder: no access to the trainer is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rgopd.cli.display.snapshot import Snapshot, Stage
from rgopd.common.run_files import Lines, read_status
from rgopd.common.run_files.events import EVENTS

TOLD = ("resumed", "evaluated", "warning", "cleared", "died", "restarted", "failed", "paused")
SILENT_S = 15.0
"""The trainer writes its status every two seconds: older than this, it is gone or stopped."""

_FIGURES = (
    ("loss", "loss", "{:.4f}"),
    ("kept", "kept_fraction", "{:.2f}"),
    ("reward", "reward_mean", "{:.3f}"),
    ("length", "response_length_mean", "{:.1f}"),
    ("entropy", "entropy", "{:.3f}"),
)
_GPU = 1 << 30


class RunSource:
    """Gives a `Snapshot` of the run that starts now in `folder`; what an earlier life left there is not told again.

    Args:
        processes: states of this machine's processes that are worth a word.
    """

    def __init__(self, folder: Path, processes: Callable[[], Mapping[str, str]] = dict) -> None:
        self.folder = folder
        self.processes = processes
        self.started = time.time()
        self.events = Lines(folder / EVENTS)
        for _ in self.events:
            pass

    def __call__(self) -> Snapshot:
        """Now."""
        status, processes = read_status(self.folder), dict(self.processes())
        news = [_told(row) for row in self.events.read().rows if row["kind"] in TOLD]
        if status is None or status["started"] < self.started:
            return Snapshot("starting", processes=processes, news=news)
        over = status["phase"] in ("finished", "paused", "failed")
        silent = status["age_s"] > SILENT_S and not over
        left = status["eta_s"]
        if left is not None:
            left = None if silent else max(0.0, left - status["age_s"])
        return Snapshot(
            f"{status['phase']} (no word from the trainer for {status['age_s']:.0f} s)" if silent else status["phase"],
            status["step"],
            status["steps"],
            [Stage(name, count["done"], count["of"]) for name, count in status["stages"].items()],
            status["seconds"],
            left,
            _figures(status),
            processes,
            [warning["text"] for warning in status["warnings"]],
            news,
        )


def _figures(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    metrics = status["metrics"]
    figures = [(name, form.format(metrics[key])) for name, key, form in _FIGURES if key in metrics]
    if status["tokens_per_s"] is not None:
        figures.append(("tokens/s", f"{status['tokens_per_s']:.0f}"))
    if status["gpu_bytes"]:
        figures.append(("GPU", f"{status['gpu_bytes'] / _GPU:.1f} GiB"))
    return figures


def _told(row: Mapping[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(row["time"]))
    if row["kind"] == "warning":
        return f"{clock}  step {row['step']}: {row['text']}. What to do: {row['do']}"
    return f"{clock}  {row['text']}"
