"""Peak memory of every process below this one, by what it does: read from /proc while a run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROLES = ("teacher", "sampler", "verifier", "train", "watch", "up", "doctor")
EVERY_S = 0.2


@dataclass
class Peak:
    """Bytes of one process at its largest. `resident` counts weights that are mapped from files; `own` does not: the
    system may drop those pages and read them again, which a service that computes with them is slow by."""

    own: int = 0
    resident: int = 0
    gpu: int = 0

    def grow(self, own: int, resident: int, gpu: int = 0) -> None:
        """Takes in what it has now."""
        self.own, self.resident, self.gpu = max(self.own, own), max(self.resident, resident), max(self.gpu, gpu)


@dataclass
class Watcher:
    """A thread that looks at all descendants of this process until it is left; processes come and go meanwhile."""

    peaks: dict[tuple[str, int], Peak] = field(default_factory=lambda: defaultdict(Peak))
    together: int = 0
    """The largest sum of what is resident at one moment; a file that two have mapped counts twice."""

    def __enter__(self) -> Watcher:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def largest(self) -> dict[str, Peak]:
        """By role, the largest process of it: a launcher or a pool's small worker is not what was asked about."""
        found: dict[str, Peak] = {}
        for (role, _), peak in self.peaks.items():
            if role not in found or peak.resident > found[role].resident:
                found[role] = peak
        return found

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Once."""
        gpu, total = gpu_bytes(), 0
        for pid in descendants(os.getpid()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                status = fields(Path(f"/proc/{pid}/status").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
            if role := role_of(words):
                self.peaks[role, pid].grow(status.get("RssAnon", 0), status.get("VmHWM", 0), gpu.get(pid, 0))
                total += status.get("VmRSS", 0)
        self.together = max(self.together, total)


def role_of(words: list[str]) -> str:
    """The command of `rgopd` that a process runs ("train": a rank); "" where it is another program."""
    if "rgopd.cli.main" not in words:
        return ""
    after = words[words.index("rgopd.cli.main") + 1 :]
    launcher = "rgopd.cli.torchrun" in words
    return after[0] if after and after[0] in ROLES and not launcher else ""


def fields(status: str) -> dict[str, int]:
    """The sizes in /proc/PID/status, in bytes."""
    rows = (line.split() for line in status.splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in rows}


def descendants(root: int) -> list[int]:
    """Process ids below `root`, itself left out."""
    parents: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(stat.rpartition(")")[2].split()[1])].append(int(entry.name))
    found, queue = [], [root]
    while queue:
        queue += (children := parents.get(queue.pop(), []))
        found += children
    return found


def gpu_bytes() -> dict[int, int]:
    """Memory on GPUs by process id; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    return parse_gpu(subprocess.run(query, capture_output=True, text=True, check=False).stdout)


def parse_gpu(table: str) -> dict[int, int]:
    """`123, 4567` a line: process id and MiB; a process on several GPUs has several lines."""
    found: dict[int, int] = defaultdict(int)
    for line in table.splitlines():
        pid, _, mib = line.partition(",")
        if pid.strip().isdigit() and mib.strip().isdigit():
            found[int(pid)] += int(mib) << 20
    return dict(found)
