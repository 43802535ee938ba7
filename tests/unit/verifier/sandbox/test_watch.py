"""The clock of a check on a machine that has no time for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.watch import Watch, _run_delay
from tests.waiting import eventually

_SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.nice(int(sys.argv[2]))\nwhile True: pass"


@pytest.fixture
def starved() -> Iterator[int]:
    """A process that wants to run, on a CPU that another one has."""
    cpu = str(min(os.sched_getaffinity(0)))
    spinning = [subprocess.Popen([sys.executable, "-S", "-c", _SPIN, cpu, nice]) for nice in ("0", "19")]
    yield spinning[1].pid
    for process in spinning:
        process.kill()
        process.wait()


@pytest.fixture
def waits() -> Iterator[int]:
    """A process that waits for another."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def test_who_waits_for_a_starved_one_is_not_slow(starved: int, waits: int) -> None:
    """A candidate sleeps while its checker works; the machine's other work must not be held against it."""
    eventually(lambda: _run_delay(starved) > 0.6)
    limits = Limits(wall_s=0.5, cpu_s=1000)
    assert Watch().over(waits, limits, 0.55 + _run_delay(waits)) == "wall"
    assert Watch().over(waits, limits, 0.55, [starved]) == ""
    assert Watch().over(waits, limits, 1000.0, [starved]) == "wall", "what it waited longer is its own"


def test_a_starved_check_ends_all_the_same(starved: int, waits: int) -> None:
    eventually(lambda: _run_delay(starved) > 0.6)
    assert Watch().over(waits, Limits(wall_s=0.1, cpu_s=1000), 0.65, [starved]) == "starved"
