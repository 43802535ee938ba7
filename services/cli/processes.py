"""Child processes of `rgopd up`: start, wait for the ready line, watch, restart, stop in order."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rgopd.common import fleeting
from rgopd.common.children import die_with_parent, in_lasting_thread
from rgopd.common.errors import RgopdError

log = logging.getLogger(__name__)

STABLE_S = 60.0
"""A process that lived this long was not in a crash loop; its restarts are counted anew."""


_EXCEPTION = re.compile(r"(\[rank\d+\]: ?)?([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Interrupt)\b")
"""The line of a traceback that says what happened."""


class ProcessFailed(RgopdError):
    """A child ended that should not have; the text holds the end of its log."""

    kind = "process_failed"


@dataclass
class Restarts:
    """When something that died is started again: at once, then after 1, 2, 4 ... 30 seconds, `limit` times in a row."""

    limit: int
    deaths: int = 0
    due: float | None = None

    def died(self, lived_s: float) -> bool:
        """Note a death; False when the limit is spent."""
        self.deaths = 1 if lived_s >= STABLE_S else self.deaths + 1
        pause = 0.0 if self.deaths == 1 else min(30.0, 2.0 ** (self.deaths - 2))
        self.due = time.monotonic() + pause
        return self.deaths <= self.limit

    def ready(self) -> bool:
        """True once, when the pause is over."""
        if self.due is None or time.monotonic() < self.due:
            return False
        self.due = None
        return True


@dataclass(frozen=True)
class Leaving:
    """Of a run that ends: bytes in its folder, and seconds of its longest step so far."""

    written: int = 0
    step_s: float = 0.0


def leaving_of(folder: Path) -> Leaving:
    """As a run's folder shows it; metrics and logs, which others write too, left out."""
    written = sum(fleeting.tree_size(folder / place) for place in ("checkpoints", "policies", "student", "best"))
    rows = (json.loads(line) for line in _last_lines(folder / "timings.jsonl") if line.endswith("}"))
    return Leaving(written, max((float(row.get("seconds", 0.0)) for row in rows), default=0.0))


def _last_lines(path: Path, most: int = 1 << 16) -> list[str]:
    found = fleeting.text_from(path, -most)
    return found.splitlines()[1 if len(found.encode()) >= most else 0 :]  # the first may be half a line


@dataclass
class Child:
    """One process. stdout (the ready line) and stderr (JSON logs) go to `<name>.out` and `<name>.log`."""

    name: str
    argv: Sequence[str]
    log_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    stop_timeout_s: float = 20.0
    leaving: Callable[[], Leaving] | None = None
    """What it does when it is asked to stop, where that may take long."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    earlier_bytes: int = 0
    """Of its log, by lives before this one."""

    @property
    def out(self) -> Path:
        """Its standard output."""
        return self.log_dir / f"{self.name}.out"

    @property
    def err(self) -> Path:
        """Its log."""
        return self.log_dir / f"{self.name}.log"

    def start(self) -> None:
        """Start it in a session of its own: Ctrl-C reaches the parent, which stops the children in order."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.earlier_bytes = fleeting.size(self.err) or 0
        with self.out.open("wb") as out, self.err.open("ab") as err:

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    list(self.argv),
                    stdout=out,
                    stderr=err,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, "PYTHONSAFEPATH": "1", **self.environment},
                    preexec_fn=die_with_parent,
                )

            self.process = in_lasting_thread(start)

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self.process is None else self.process.poll()

    def url(self) -> str | None:
        """The URL of its ready line, once it is there."""
        line = next((line for line in fleeting.text(self.out).splitlines() if " ready at " in line), None)
        return line.rpartition(" ready at ")[2] if line else None

    def wait_ready(self, timeout_s: float) -> str:
        """Wait for the ready line; returns the URL.

        Raises:
            ProcessFailed: it ended, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if url := self.url():
                return url
            if self.poll() is not None:
                raise ProcessFailed(f"{self.name} exited with {self.poll()} before it was ready:\n{self.tail()}")
            if time.monotonic() >= deadline:
                raise ProcessFailed(f"{self.name} was not ready after {timeout_s:.0f} s:\n{self.tail()}")
            time.sleep(0.05)

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to its whole session after `stop_timeout_s`, or later where it is seen to write."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.ask_to_stop()
            if not self._left():
                log.warning("%s did not stop within %.0f s and is killed", self.name, self.stop_timeout_s)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # stragglers of its session, e.g. torchrun's ranks
        except ProcessLookupError:
            pass
        self.process.wait()

    def _left(self) -> bool:
        """Wait for its end, patiently; False when the patience is over."""
        assert self.process is not None
        before = self.leaving() if self.leaving else Leaving()
        deadline = time.monotonic() + self.stop_timeout_s + before.step_s
        while time.monotonic() < deadline:
            try:
                self.process.wait(min(0.5, self.stop_timeout_s))
                return True
            except subprocess.TimeoutExpired:
                now = self.leaving() if self.leaving else before
                if now.written != before.written:
                    before, deadline = now, max(deadline, time.monotonic() + self.stop_timeout_s)
        return False

    def tail(self) -> str:
        """Why it ended, as far as the log of this life tells: its last critical message; else its command's one
        line, the exception that it ended by, or the log's end, and where the whole log is."""
        text = fleeting.text_from(self.err, self.earlier_bytes).splitlines()
        if not text:
            return ""
        critical = [json.loads(line)["msg"] for line in text if line.startswith("{") and '"level": "critical"' in line]
        if critical:
            return str(critical[-1])
        own = [
            line.removeprefix("rgopd: ") for line in text if line.startswith("rgopd: ")
        ]  # what srun says comes after
        last = (
            own or [line for line in text if _EXCEPTION.match(line)] or [line for line in text if line.strip()] or [""]
        )
        return f"{last[-1]}\nIts log: {self.err}"
