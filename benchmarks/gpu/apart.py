"""A section in a process of its own, whose rows are kept whatever becomes of it.

A case that ends the process (a lost CUDA context, a crash), or says nothing for too long, costs its own row: the
section goes on behind it in a new process while it has time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu.harness import AGAIN, Row

STALL_S = 80.0
"""Without a new line for so long a case hangs; the longest ones compile."""
GRACE_S = 10.0
"""A section looks at its time between cases; past this much more it is killed."""
WORTH_S = 20.0
"""What a new process must have left to be started."""


def run_apart(
    name: str, command: Sequence[str], seconds: float, logs: Path, seen: Callable[[list[Row]], object] = lambda _: None
) -> list[Row]:
    """All rows of a section.

    Args:
        command: the section's, which takes --left SECONDS and --done FILE (cases to leave out).
        logs: where its output and errors stay.
        seen: told all rows so far, whenever there are new ones.
    """
    until, rows, begun = time.monotonic() + seconds + GRACE_S, list[Row](), list[str]()
    for attempt in range(100):
        log, left = logs / f"{name}.{attempt}.log", until - GRACE_S - time.monotonic()
        done = logs / f"{name}.done"
        done.write_text("\n".join(begun))
        whole = [*command, "--left", f"{left:.1f}", "--done", str(done)]
        why = _watch(whole, log, until, partial(_tell, seen, tuple(rows), log))
        rows += _rows(log)
        started, ended = _after("CASE ", log), set(_after("DONE ", log))
        begun += started
        broken = next((case for case in reversed(started) if case not in ended), None)
        if why and why != str(AGAIN):
            rows.append(Row(name, broken or "the section", error=why))
        if not why or not started or until - time.monotonic() < WORTH_S:
            break
    seen(_latest(rows))
    return _latest(rows)


def _tell(seen: Callable[[list[Row]], object], earlier: Sequence[Row], log: Path) -> None:
    if rows := _latest([*earlier, *_rows(log)]):
        seen(rows)


def _watch(command: Sequence[str], log: Path, until: float, tell: Callable[[], object]) -> str:
    """Why it did not end well; empty: it did."""
    errors = log.with_suffix(".err")
    with log.open("wb") as out, errors.open("wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            size, since, limit = 0, time.monotonic(), max(0.0, until - time.monotonic())
            while (status := child.poll()) is None:
                now = time.monotonic()
                if (found := log.stat().st_size) != size:
                    size, since = found, now
                    tell()
                if now > until:
                    return f"killed after {limit:.0f} s"
                if now - since > STALL_S:
                    return f"killed: it hung for {STALL_S:.0f} s"
                time.sleep(0.1)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if status == AGAIN:
        return str(AGAIN)
    return f"ended with status {status}: {_last_line(errors)}" if status else ""


def _rows(log: Path) -> list[Row]:
    return [Row(**json.loads(text)) for text in _after("ROW ", log)]


def _after(word: str, log: Path) -> list[str]:
    """What follows the word on whole lines that begin with it."""
    lines = log.read_text(errors="replace").split("\n")[:-1]
    return [line[len(word) :] for line in lines if line.startswith(word)]


def _latest(rows: list[Row]) -> list[Row]:
    """One row a case: a floor is measured again where a section goes on."""
    return list({row.case: row for row in rows}.values())


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing on stderr"
