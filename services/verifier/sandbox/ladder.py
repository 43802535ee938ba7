"""Choosing the rung: the best one whose confinement starts here and withstands being attacked."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from typing import Any

from rgopd.verifier.sandbox.command import Command, SandboxError
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.probe import require_all_held
from rgopd.verifier.sandbox.slot import Slot
from rgopd.verifier.sandbox.zygote_process import SandboxSettings, interpreter

log = logging.getLogger(__name__)

NAMES = {
    1: "root: namespaces, pivot_root, a uid a slot, seccomp, rlimits",
    2: "unprivileged: user namespace, pivot_root, seccomp, rlimits",
    3: "container: Landlock, seccomp, rlimits",
}


def unsupported() -> str:
    """Why this system can have no rung at all; "" where it may."""
    system = platform.system()
    if system == "Linux":
        return ""
    return (
        f"no isolation on {system}: the verifier runs programs that a model wrote, and confines them with Linux's "
        "namespaces, seccomp and Landlock; run it in a Linux container, a virtual machine or WSL 2 (docs/machines.md)"
    )


def choose_rung(wanted: str, settings: Callable[[int], SandboxSettings]) -> tuple[int, dict[str, Any]]:
    """The rung to run at, and a report for /info.

    Args:
        wanted: "auto", or the lowest acceptable rung.
        settings: how to start a zygote at a rung.

    Raises:
        SandboxError: nothing acceptable holds; the text says why, rung by rung.
    """
    if reason := unsupported():
        raise SandboxError(reason)
    lowest = 3 if wanted == "auto" else int(wanted)
    refusals: dict[str, str] = {}
    for rung in range(1, lowest + 1):
        try:
            report = attack(settings(rung))
        except (SandboxError, OSError) as problem:
            refusals[str(rung)] = str(problem)
            log.info("rung %d is not available: %s", rung, problem)
            continue
        return rung, {"name": NAMES[rung], **report, "refused": refusals}
    reasons = "; ".join(f"rung {r}: {why}" for r, why in refusals.items())
    raise SandboxError(f"no isolation at rung {lowest} or better on this machine: {reasons}")


def attack(settings: SandboxSettings) -> dict[str, Any]:
    """Start one slot, run something honest in it, then attack it.

    Raises:
        SandboxError: it does not start, does not work, or does not hold.
    """
    slot = Slot(0, settings)
    try:
        _run_something_honest(slot, settings)
        probes = require_all_held(slot)
        return {"memory_bound": _memory_bound(slot.info), "probes": probes}
    finally:
        slot.close()


def _memory_bound(info: dict[str, Any]) -> str:
    return f"cgroup v{info['cgroup']}" if info["cgroup"] else "rlimits and a watch every 50 ms"


def _run_something_honest(slot: Slot, settings: SandboxSettings) -> None:
    """Isolation that honest programs do not survive is none: they need at least the standard library."""
    program = "import colorsys, wave, zipfile, _decimal\ndef f(x): return x + 1"
    payload = {"program": program, "calls": [{"f": "f", "a": [1]}], "value_bytes": 1 << 16}
    end = slot.run(Command("calls", Limits(), payload))
    if b"ModuleNotFoundError" in end.channel:
        python = interpreter(settings.python)
        raise SandboxError(
            f"code under test cannot read the standard library of {python}; set `python` to an interpreter that "
            "every user can read, e.g. --set python=/usr/bin/python3"
        )
    if end.channel != b'{"a":0,"v":null}\n{"a":1,"v":2}\n':
        raise SandboxError(f"a trivial program did not run: {end}")
