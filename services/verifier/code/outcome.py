"""From how a process ended to words, and from tests to a verdict."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from rgopd.verifier.sandbox.command import Finished
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.verdict import Status, TestOutcome, Verdict, error, failed, passed


def how_it_ended(end: Finished, limits: Limits) -> str:
    """'' for a clean exit, else why not."""
    reasons = {
        "cpu": f"used more than {limits.cpu_s:g} s of CPU time",
        "wall": f"did not end within {limits.wall_s:g} s",
        "starved": f"was given too little CPU time to end within {limits.wall_s:g} s: the machine is busy",
        "memory": f"used more than {limits.memory_mb} MB of memory",
        "files": f"wrote more than {limits.file_mb} MB of files",
        "output": f"printed more than {limits.output_bytes} bytes",
        "values": f"returned more than {limits.value_bytes} bytes",
    }
    if end.killed in reasons:
        return reasons[end.killed]
    if end.signal is not None:
        if end.signal == signal.SIGKILL and end.cpu_s >= limits.cpu_s:
            return reasons["cpu"]
        return f"killed by {_signal_name(end.signal)}"
    if end.code:
        return f"exited with code {end.code}{_last_line(end.stderr)}"
    return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""


def summarise(outcomes: Sequence[TestOutcome], total: int, *, partial: bool, extracted: str | None) -> Verdict:
    """passed when all `total` tests passed; with `partial` the share of passed ones is the reward."""
    tests = tuple(outcomes)
    unclear = next((t for t in tests if t.status is Status.error), None)
    if unclear is not None:
        return error(unclear.reason, extracted=extracted, tests=tests)
    good = sum(t.status is Status.passed for t in tests)
    if good == total:
        return passed(f"{total} of {total} tests passed", extracted=extracted, tests=tests)
    number, first = next((i, t) for i, t in enumerate(tests, 1) if t.status is Status.failed)
    reward = good / total if partial else 0.0
    return failed(f"test {number} of {total}: {first.reason}", reward=reward, extracted=extracted, tests=tests)
