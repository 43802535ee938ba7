"""What a check's fork costs: CPU and page faults of one trivial call, one check a fork, several, or none.

    [ANOTHER_PYTHON] benchmarks/verifier/pages.py [--checks 320]

Needs nothing but the standard library, so that other interpreters can be measured. Only differences count on a loaded
machine. Several programs in one process are ruled out (decision 040): those rows say what that costs.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rgopd.verifier.sandbox import candidate, checker

_IN_A_ZYGOTE = (candidate, checker)


def one(number: int) -> None:
    """Load a program, make a call, write what it answers."""
    calls = candidate.Calls(candidate.load({"program": f"def f(x):\n    return x + {number}\n"}), 1 << 20)
    calls.send(calls.answer(1, {"f": "f", "a": [1], "k": {}}))


def forked(checks: int, size: int, work: Callable[[int], None]) -> None:
    """`size` checks a fork."""
    for first in range(0, checks, size):
        pid = os.fork()
        if not pid:
            for number in range(first, first + size):
                work(number)
            os._exit(0)
        os.waitpid(pid, 0)


def in_place(checks: int) -> None:
    """All of them in this process."""
    for number in range(checks):
        one(number)


def spent() -> tuple[float, int]:
    """CPU seconds of this process and its children, faults of the children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return seconds, children.ru_minflt


def report(name: str, checks: int, go: Callable[[], None]) -> None:
    """One row."""
    before = spent()
    go()
    after = spent()
    cpu, faults = (after[0] - before[0]) / checks * 1000, (after[1] - before[1]) / checks
    print(f"{name:24s} {cpu:.2f} ms, {faults:.0f} faults a check", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=320)
    checks = parser.parse_args().checks
    print(sys.version.split()[0])
    os.dup2(os.open(os.devnull, os.O_RDWR), candidate.CHANNEL)
    one(0)
    report("1 a fork, no gc.freeze", checks, lambda: forked(checks, 1, one))
    gc.freeze()
    gc.disable()
    for _ in range(2):
        report("fork and exit", checks, lambda: forked(checks, 1, lambda number: None))
        for size in (1, 4, 16, 64):
            report(f"{size} a fork", checks, lambda size=size: forked(checks, size, one))  # type: ignore[misc]
        report("no fork", checks, lambda: in_place(checks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
