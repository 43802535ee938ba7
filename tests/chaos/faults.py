"""Faults, drawn from a seed, and their effect on a cast."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cast import Cast


@dataclass(frozen=True)
class Fault:
    """One blow: `wait_s` after `step` steps are done, `kind` hits `target`; `length_s` is for those that last."""

    wait_s: float
    kind: str
    target: str
    length_s: float
    step: int = 0

    def __str__(self) -> str:
        return f"from step {self.step} +{self.wait_s:.2f}s: {self.kind} {self.target} {self.length_s:.2f}s"


WEIGHTS = {"kill": 10, "stop": 6, "redis": 3, "empty": 1, "cut": 5, "block": 2, "pause": 2}

STORE = {"store-away": 2, "store-vanish": 3, "store-damage": 3}
"""The same of a cast whose blobs are files."""


def draw(seed: int, count: int, roles: Sequence[str], steps: int, *, store: bool = False) -> list[Fault]:
    """A plan over the first half of a run's steps: a function of the seed alone, so that it can be replayed.

    By steps, not by the clock: else a fast machine's run is over before it was disturbed.
    """
    rng = random.Random(seed)
    weights = {**WEIGHTS, **STORE} if store else WEIGHTS
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    at = sorted(rng.choices(range(1, max(2, steps // 2)), k=count))
    return [
        Fault(rng.uniform(0.0, 1.0), kind, rng.choice(list(roles)), rng.uniform(0.2, 3.0), step)
        for kind, step in zip(kinds, at, strict=True)
    ]


def strike(cast: Cast, fault: Fault) -> None:
    """Do it. What dies of it is started again by `cast.tend`."""
    if fault.kind == "kill":
        cast.signal(fault.target, signal.SIGKILL)
    elif fault.kind == "stop":
        if cast.signal(fault.target, signal.SIGSTOP):
            _sleep(cast, fault.length_s)
            cast.signal(fault.target, signal.SIGCONT)
    elif fault.kind == "redis":
        cast.restart_redis(pause_s=fault.length_s / 3)
    elif fault.kind == "empty":
        cast.restart_redis(empty=True)
    elif fault.kind == "cut":
        cast.proxy.cut()
    elif fault.kind == "block":
        cast.proxy.block()
        _sleep(cast, fault.length_s)
        cast.proxy.unblock()
    elif fault.kind in STORE:
        _strike_files(cast, fault)
    elif fault.kind == "pause":
        for name in cast.rank_names:
            cast.signal(name, signal.SIGTERM)
    else:
        raise ValueError(fault.kind)


def _strike_files(cast: Cast, fault: Fault) -> None:
    """The folder is gone for a while; or every other blob is, or is cut in two."""
    root = Path(str(cast.common["blob_url"]).removeprefix("file://"))
    if fault.kind == "store-away":
        away = root.with_name("away")
        root.rename(away)
        _sleep(cast, fault.length_s)
        away.rename(root)
        return
    blobs = sorted(p for p in root.rglob("*") if p.is_file() and p.parent.name in ("rollout", "verdict", "score"))
    for path in blobs[::2]:
        try:
            if fault.kind == "store-damage":
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size // 2)
            else:
                path.unlink()
        except FileNotFoundError:  # its step is over
            continue


def afflict(cast: Cast, faults: Sequence[Fault]) -> Iterator[Fault]:
    """Strike one after the other while the run goes on; ends early when the run does. Yields what was done."""
    for fault in faults:
        while cast.steps_done() < fault.step:
            if _sleep(cast, 0.05):
                return
        if _sleep(cast, fault.wait_s):
            return
        strike(cast, fault)
        yield fault


def _sleep(cast: Cast, seconds: float) -> bool:
    """Let the run go on; True when it is done."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if cast.tend():
            return True
        time.sleep(0.05)
    return False
