"""What a run is doing now, for whoever watches: status.json, events.jsonl and their copies in Redis. Rank 0's.

The trainer only sets values here; a thread writes them. So watching costs the loop next to nothing, and a status that
grows old says that the process is gone or stopped.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rgopd.common.run_files import EventLog, History, StatusFile, Warn, warnings_of
from rgopd.common.signs import Watched, signs_of
from rgopd.trainer.records.prometheus import TrainerMetrics

log = logging.getLogger(__name__)

WRITE_S, BEAT_S = 0.5, 2.0
STUCK_S, MARGIN_S = 900.0, 300.0
"""A trainer that neither reads, writes nor computes, and what it may take to say so itself before a probe does."""
_SHOWN = ("loss", "kept_fraction", "reward_mean", "pass_rate", "response_length_mean", "entropy")

Hear = Callable[[str, Mapping[str, Any]], None]


class Live:
    """The state of this life of the run. With `folder` None (the other ranks) nothing is written.

    Args:
        folder: the run folder.
        patience_s: how long a wait for rollouts may go without one getting further, in seconds.
    """

    def __init__(self, folder: Path | None, run_id: str = "", ranks: int = 1, patience_s: float = 3600.0) -> None:
        self.hear: Hear | None = None
        """Gets (`status` or `event`, row) too, in the thread: it may be slow."""
        self.metrics: TrainerMetrics | None = None
        """Prometheus', where a port is set."""
        self.gpu_bytes: Callable[[], int] = lambda: 0
        self.history = History()
        self._untold: deque[Mapping[str, Any]] = deque(maxlen=64)
        self._file = None if folder is None else StatusFile(folder)
        self._events = None if folder is None else EventLog(folder, "trainer", self._untold.append)
        self._in_force: dict[str, Warn] = {}
        self._recent: deque[float] = deque(maxlen=10)
        self._next_step = (0, time.monotonic())
        now = time.time()
        self._status: dict[str, Any] = {
            "host": socket.gethostname(),
            "run_id": run_id,
            "ranks": ranks,
            "started": now,
            "phase": "loading",
            "since": now,
            "step": 0,
            "steps": 0,
            "policy_version": 0,
            "stages": {},
            "tokens_per_s": None,
            "seconds": None,
            "eta_s": None,
            "metrics": {},
            "warnings": [],
        }
        self.patience_s = patience_s
        self._shown: tuple[Any, ...] = ()
        self._moved = now
        self._work = Watched(lambda: signs_of(os.getpid()), STUCK_S)
        self._lock = threading.Lock()
        self._changed, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="live", daemon=True)
        if folder is not None:
            self._write()
            self._thread.start()

    # -- what the trainer says --------------------------------------------------------------------------------------

    def set(self, **values: Any) -> None:
        """Fields of status.json."""
        with self._lock:
            self._status.update(values)
        self._changed.set()

    def phase(self, name: str, **values: Any) -> None:
        """What begins now. Long ones (loading, evaluating, saving) are events as well when they end."""
        with self._lock:
            ended, since = self._status["phase"], self._status["since"]
            if ended != name:
                self._status.update(phase=name, since=time.time(), stages={})
            self._status.update(values)
        self._changed.set()
        if ended != name and ended in ("loading", "evaluating", "saving"):
            seconds = time.time() - since
            self.event("phase", f"{ended} took {seconds:.1f} s", phase=ended, seconds=round(seconds, 3))

    def stages(self, **counts: tuple[int, int]) -> None:
        """Progress within the phase: stage=(done, of)."""
        with self._lock:
            self._status["stages"] = {**self._status["stages"]} | {
                name: {"done": done, "of": of} for name, (done, of) in counts.items()
            }
        self._changed.set()

    def event(self, kind: str, text: str, **more: Any) -> None:
        """One line of events.jsonl."""
        if self._events is not None:
            self._events.add(kind, text, **more)

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl that was written: warnings are raised and cleared by it."""
        if self._file is None:
            return
        self.history.add(row)
        found = {warn.kind: warn for warn in warnings_of(self.history.rows())}
        step = int(row["step"])
        for kind, warn in found.items():
            if kind not in self._in_force:
                log.warning("%s; %s", warn.text, warn.do)
                more = {"warning": kind, "level": warn.level, "value": warn.value, "do": warn.do}
                self.event("warning", warn.text, step=step, **more)
        over = sorted(self._in_force.keys() - found.keys())
        if self.metrics is not None:
            self.metrics.row(row)
            self.metrics.warnings(list(found.values()), over)
        for kind in over:
            self.event("cleared", f"{kind} is over", step=step, warning=kind)
        self._in_force = found
        self.set(warnings=[dict(vars(warn)) for warn in found.values()])
        if row["event"] == "step":
            self.set(metrics={key: row[key] for key in _SHOWN if key in row})

    def timing(self, row: Mapping[str, Any]) -> None:
        """A step's row of timings.jsonl."""
        if self.metrics is not None:
            self.metrics.timing(row)
            self.metrics.steps.set(self._status["steps"])
        self._recent.append(float(row["seconds"]))
        seconds = sum(self._recent) / len(self._recent)
        self._next_step = (int(row["step"]) + 1, time.monotonic())
        self.set(tokens_per_s=row["tokens_per_s"], seconds=seconds)

    def end(self, phase: str, text: str) -> None:
        """finished, paused or failed: the last words."""
        if self._file is None or self._closed.is_set():
            return
        self.phase(phase)
        self.event(phase, text, step=self._status["step"])
        self._closed.set()
        self._changed.set()
        self._thread.join(timeout=5)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._closed.is_set():
            self._changed.wait(BEAT_S)
            self._changed.clear()
            self._write()
            self._closed.wait(WRITE_S)
        self._write()

    def _write(self) -> None:
        assert self._file is not None
        with self._lock:
            status = dict(self._status)
        step, since = self._next_step
        if status["seconds"] is not None and not self._closed.is_set():
            left = (status["steps"] - step) * status["seconds"] - (time.monotonic() - since)
            status["eta_s"] = round(max(0.0, left), 1)
        status |= {"rss_bytes": rss_bytes(), "gpu_bytes": self.gpu_bytes(), **self._progress(status)}
        try:
            self._file.write(status)
        except OSError as error:  # a full disk ends the run where it matters, not here
            log.debug("status.json: %s", error)
        if self.hear is not None:
            while self._untold:
                self.hear("event", self._untold.popleft())
            self.hear("status", {"time": time.time(), "pid": os.getpid(), **status})

    def _progress(self, status: Mapping[str, Any]) -> dict[str, float]:
        """`moved`: when it last got on, Unix seconds; `allowed_s`: how long it may not. Where it waits for rollouts
        they are what gets on; else its own reading, writing and computing are."""
        waits = status["phase"] in ("collecting", "evaluating")
        shown = (status["phase"], status["step"], status["policy_version"], str(status["stages"]))
        self._work.tick()
        if shown != self._shown or (not waits and not self._work.stuck()):
            self._shown, self._moved = shown, time.time()
        return {"moved": round(self._moved, 3), "allowed_s": MARGIN_S + (self.patience_s if waits else STUCK_S)}


def rss_bytes() -> int:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
