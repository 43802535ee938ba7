"""One run as its folder tells it: the columns of its figures, evaluations, events, settings. Nothing is written."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rgopd.common.run_files import History, Lines, warnings_of
from rgopd.watch.table import Table, finite, wilson

MARKS = ("metrics.jsonl", "run.json", "run.yaml", "config.yaml")
"""A folder that holds one of these is a run's."""
_CHUNK = 1 << 20
MAX_EVENTS = 500


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, however far it has come; no where this user may not look into it."""
    return any(os.path.isfile(folder / name) for name in MARKS)


class Run:
    """Follows the files of a run folder. `refresh` reads what is new; everything else answers from memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.lock = threading.Lock()
        self.generation = time.time_ns() // 1_000_000
        """Grows whenever rows that were already given out are no longer true: a resumed run made them again. It begins
        with the clock, so that a page which outlives this process does not take the next one's rows for its own."""
        self.steps, self.clocks = Table(), Table()
        self.evals: list[dict[str, Any]] = []
        self.early_stop: dict[str, Any] | None = None
        self.cuts: list[dict[str, int]] = []
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._metrics, self._timings = Lines(folder / "metrics.jsonl"), Lines(folder / "timings.jsonl")
        self._events = Lines(folder / "events.jsonl")
        self._history = History()
        self._warnings: list[dict[str, Any]] | None = None
        self._beat: tuple[Any, float] = (None, -math.inf)
        self._config: tuple[float, dict[str, Any]] = (0.0, {})

    def refresh(self) -> None:
        """Take in what the files gained."""
        with self.lock:
            self._refresh_metrics()
            self._refresh_timings()
            self._refresh_events()

    def _refresh_metrics(self) -> None:
        while True:
            news = self._metrics.read(_CHUNK)
            if news.anew:
                self._begin_anew(news.rows)
            for row in news.rows:
                self._take(row)
            if not news.rows:
                return

    def _begin_anew(self, rows: list[dict[str, Any]]) -> None:
        last = max((int(row["step"]) for row in rows if row.get("event") == "step"), default=-1)
        self.cuts.append({"from": self.steps.last, "to": last})
        self.generation += 1
        self.steps, self.evals, self.early_stop = Table(), [], None
        self._history, self._warnings = History(), None

    def _refresh_timings(self) -> None:
        while True:
            news = self._timings.read(_CHUNK)
            if news.anew:
                self.clocks = Table()
            for row in news.rows:
                if row.get("event") == "step" and isinstance(row.get("step"), int):
                    self.clocks.append(row["step"], _figures(row))
            if not news.rows:
                return

    def _refresh_events(self) -> None:
        while True:
            news = self._events.read(_CHUNK)
            if news.anew:
                self.events.clear()
            self.events.extend(news.rows)
            if not news.rows:
                return

    def warnings(self) -> list[dict[str, Any]]:
        """What is wrong at the newest step, and what to do; asked under the lock."""
        if self._warnings is None:
            self._warnings = [{**vars(warn), "value": finite(warn.value)} for warn in warnings_of(self._history.rows())]
        return self._warnings

    def _take(self, row: dict[str, Any]) -> None:
        if not isinstance(row.get("step"), int):
            return
        self._history.add(row)
        self._warnings = None
        if row.get("event") == "step":
            self.steps.append(row["step"], _figures(row))
        elif row.get("event") == "eval":
            self.evals.append(row)
        elif row.get("event") == "early_stop":
            self.early_stop = row

    def silent_s(self, status: Mapping[str, Any]) -> float | None:
        """How long the trainer has not written its status: by the clocks, or if that is shorter by what was seen here,
        since the clock of a mounted folder's machine may differ from this one's. None without a status."""
        if "time" not in status:
            return None
        before, changed = self._beat
        if before != status["time"]:
            changed = -math.inf if before is None else time.monotonic()
            self._beat = (status["time"], changed)
        return min(float(status["age_s"]), time.monotonic() - changed)

    def config(self) -> dict[str, Any]:
        """config.yaml, the settings in force; empty where there is none yet. Read again when it changes."""
        path = self.folder / "config.yaml"
        try:
            changed = path.stat().st_mtime
            if changed != self._config[0]:
                loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
                self._config = (changed, loaded if isinstance(loaded, dict) else {})
        except (OSError, UnicodeDecodeError, yaml.YAMLError):  # not there yet, or half copied
            return {}
        return self._config[1]

    def total_steps(self) -> int:
        """Steps that the run is to take; 0 where its files do not say (a number of epochs)."""
        steps = self.config().get("steps")
        return steps if isinstance(steps, int) else 0

    def names(self) -> dict[str, list[str]]:
        """The columns there are: of metrics.jsonl and of timings.jsonl."""
        with self.lock:
            return {"step": list(self.steps.columns), "clock": list(self.clocks.columns)}

    def series(self, names: list[str], low: int, high: int, points: int) -> dict[str, Any]:
        """Columns between two steps (`Table.window`); those of timings.jsonl are named clock/..."""
        with self.lock:
            ours = [name for name in names if not name.startswith("clock/")]
            clocks = [name.removeprefix("clock/") for name in names if name.startswith("clock/")]
            answer = {"generation": self.generation, "last": self.steps.last, "cuts": list(self.cuts)}
            answer["step"] = self.steps.window(ours, low, high, points)
            answer["clock"] = self.clocks.window(clocks, low, high, points)
            return answer

    def evaluations(self) -> list[dict[str, Any]]:
        """All of them, each share with its 95% interval."""
        with self.lock:
            rows = [dict(row) for row in self.evals]
        for row in rows:
            row["interval"] = wilson(float(row.get("accuracy", 0)), int(row.get("problems", 0)))
            domains = row.get("by_domain", {})
            row["by_domain"] = {
                name: {**found, "interval": wilson(float(found["accuracy"]), int(found["problems"]))}
                for name, found in domains.items()
            }
        return rows


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("event", "step")}
