"""The progress display of a run, read from its files: it needs no access to the trainer."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from rgopd.trainer.records.metrics import read_json_lines


class Progress:
    """A live table on a terminal; elsewhere a line every few steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console()
        self.live: Live | None = None
        self.printed = -1
        self.next_read = 0.0
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """One line above the table."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=False)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tick(force=True)
        if self.live is not None:
            self.live.stop()

    def tick(self, force: bool = False) -> None:
        """Read what is new and show it."""
        if not force and time.monotonic() < self.next_read:
            return
        self.next_read = time.monotonic() + 0.5
        steps = _events(self.folder / "metrics.jsonl", "step")
        evals = _events(self.folder / "metrics.jsonl", "eval")
        timings = {row["step"]: row for row in _events(self.folder / "timings.jsonl", "step")}
        if self.live is not None:
            self.live.update(self._table(steps, evals, timings))
        elif steps and (force or steps[-1]["step"] >= self.printed + 5) and steps[-1]["step"] > self.printed:
            self.printed = steps[-1]["step"]
            self.say(_line(steps[-1], timings.get(self.printed, {})))

    def _table(self, steps: list[dict[str, Any]], evals: list[dict[str, Any]], timings: dict[int, Any]) -> Table:
        total = self._total_steps()
        done = len(steps)
        outer = Table.grid(padding=(0, 2))
        outer.add_row("step", ProgressBar(total=max(1, total), completed=done, width=40), f"{done}/{total}")
        outer.add_row("elapsed", f"{time.monotonic() - self.started:.0f} s")
        if evals:
            outer.add_row("greedy accuracy", "  ".join(f"v{e['step']}: {e['accuracy']:.1%}" for e in evals[-4:]))
        if steps:
            row, clock = steps[-1], timings.get(steps[-1]["step"], {})
            for name, value in _fields(row, clock):
                outer.add_row(name, value)
        return outer

    def _total_steps(self) -> int:
        path = self.folder / "config.yaml"
        loaded = yaml.safe_load(path.read_text()) if path.exists() else None
        return int(loaded.get("steps", 0)) if loaded else 0


def _events(path: Path, event: str) -> list[dict[str, Any]]:
    return [row for row in read_json_lines(path) if row["event"] == event] if path.exists() else []


def _fields(row: dict[str, Any], clock: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("loss", f"{row['loss']:.4f}"),
        (
            "kept",
            f"{row['kept_fraction']:.2f} (A>0 {row['kept_fraction_positive']:.2f}, "
            f"A=0 {row['kept_fraction_zero']:.2f}, A<0 {row['kept_fraction_negative']:.2f})",
        ),
        ("reward", f"{row['reward_mean']:.3f}"),
        ("length", f"{row['response_length_mean']:.1f}"),
        ("tokens/s", f"{clock.get('tokens_per_s', 0):.0f}"),
    ]


def _line(row: dict[str, Any], clock: dict[str, Any]) -> str:
    return f"step {row['step']:>5}  " + "  ".join(f"{name} {value}" for name, value in _fields(row, clock))
