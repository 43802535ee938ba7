"""Signs that a process gets on with something long: bytes fetched, bytes read or written, memory filled, CPU time.

What counts is that they change. A process that computes without any other sign (a compiler, a graph capture) is
believed ten times as long as one that shows none at all: a loop may wait busily for ever.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BUSY = 0.05
"""Cores; below it a process only polls."""
BELIEVED = 10
RATE = 1 << 16
"""Bytes a second, read, written or filled, that are a sign; polling moves fewer."""
_LOOK_S = 0.2
_DIGITS = re.compile(r"[\d.:]+")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Signs:
    """Of a process and its descendants. `fetched`: bytes of its downloads on this disk."""

    fetched: int = 0
    moved: int = 0
    resident: int = 0
    cpu_s: float = 0.0


def signs_of(pid: int, fetched: Callable[[], int] = lambda: 0) -> Signs:
    """What a process shows now; where there is no /proc, `fetched` and this process's own CPU time alone."""
    tree = descendants(pid)
    if not tree:
        return Signs(fetched(), cpu_s=sum(os.times()[:4]))
    moved = resident = 0
    cpu_s = 0.0
    for each in tree:
        fields = _stat(each)
        if fields:  # utime, stime and those of children that have ended; major faults read mapped files
            cpu_s += sum(map(int, fields[11:15])) / _TICKS
            resident += int(fields[21]) * _PAGE
            moved += (int(fields[9]) + int(fields[10])) * _PAGE
        moved += _moved(each)
    return Signs(fetched(), moved, resident, cpu_s)


def descendants(pid: int) -> list[int]:
    """A process and all below it; empty without /proc, or when it is gone."""
    found: list[int] = []
    new = [pid] if _stat(pid) else []
    while new:
        found += new
        new = [child for parent in new for child in _children(parent)]
    return found


def _children(pid: int) -> list[int]:
    """Of all its threads: the kernel keeps who started whom by thread."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # ended a moment ago
        return []
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return found


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _moved(pid: int) -> int:
    """Bytes read and written, whatever for."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:  # another user's
        return 0
    return sum(int(line.partition(":")[2]) for line in lines if line.startswith(("rchar", "wchar")))


class Watched:
    """How long there has been no sign. Times in seconds.

    Args:
        look: what there is to see now.
        limit_s: how long without any sign means stuck.
        marks: anything else whose change is a sign, e.g. the size of a log.
    """

    def __init__(self, look: Callable[[], Signs], limit_s: float, marks: Callable[[], object] = lambda: None) -> None:
        self.look, self.limit_s, self.marks = look, limit_s, marks
        self.first = self.seen = look()
        self._mark = marks()
        self.since = self.busy_since = self._looked = time.monotonic()
        self.fetching = False
        self.read = 0

    def tick(self) -> None:
        """Look once; call it every second or so."""
        now = time.monotonic()
        if (passed := now - self._looked) < _LOOK_S:
            return
        signs, mark, before = self.look(), self.marks(), self.seen
        self.fetching = signs.fetched > before.fetched
        grown = max(signs.moved - before.moved, signs.resident - before.resident)
        if self.fetching or grown > RATE * passed or mark != self._mark:
            self.since = self.busy_since = now
        elif signs.cpu_s - before.cpu_s > BUSY * passed:
            self.busy_since = now
        self.read += max(0, signs.moved - before.moved)
        self.seen, self._mark, self._looked = signs, mark, now

    def stuck(self) -> str:
        """Why it is not believed to get on any more; empty while it is."""
        now = time.monotonic()
        if now - self.busy_since > self.limit_s:
            return f"nothing fetched, read, written or computed for {now - self.busy_since:.0f} s"
        if now - self.since > BELIEVED * self.limit_s:
            return f"it computes, but nothing was fetched, read or written for {now - self.since:.0f} s"
        return ""

    def tell(self, fetched: int, wanted: int, doing: str) -> str:
        """In words: what is downloaded of what, else what it does."""
        if wanted and fetched < wanted:
            return f"downloading {gb(fetched)} of {gb(wanted)} GB"
        if self.fetching:
            return f"downloading, {gb(fetched)} GB so far"
        return f"{doing} ({gb(self.read)} GB read, {self.seen.cpu_s - self.first.cpu_s:.0f} s computed)"


def gb(count: int) -> str:
    """Gigabytes with one decimal."""
    return f"{count / 1e9:.1f}"


class LogNews:
    """Kinds of lines in some logs: a line that only repeats an earlier one, with other numbers, is no news.

    A process that waits for ever may well complain about it every minute.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._read = dict.fromkeys(files, 0)
        self._kinds: set[str] = set()

    def __call__(self) -> int:
        """How many there have been so far."""
        for path, start in self._read.items():
            try:
                with path.open("rb") as file:
                    file.seek(start if start <= os.fstat(file.fileno()).st_size else 0)
                    lines = file.read().decode(errors="replace").splitlines()
                    self._read[path] = file.tell()
            except OSError:  # not there yet, or not any more
                continue
            self._kinds.update(_DIGITS.sub("", line)[:200] for line in lines)
        return len(self._kinds)
