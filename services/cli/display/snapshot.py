"""What a command is doing at one moment, and how fast its stages go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WINDOW_S = 15.0


@dataclass(frozen=True)
class Stage:
    """Progress of one stage: `done` of `of` units."""

    name: str
    done: int
    of: int
    unit: str = ""


@dataclass(frozen=True)
class Snapshot:
    """One moment. `left_s`: seconds to the end of all, where known; `news`: lines that were not told before."""

    phase: str
    step: int = 0
    steps: int = 0
    stages: Sequence[Stage] = ()
    seconds: float | None = None
    """A step, the mean of the last ones."""
    left_s: float | None = None
    figures: Sequence[tuple[str, str]] = ()
    processes: Mapping[str, str] = field(default_factory=dict)
    """What the processes of this machine are doing, while they start or after one died."""
    warnings: Sequence[str] = ()
    news: Sequence[str] = ()


class Rates:
    """Units a second of every stage, over the last seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def update(self, stages: Sequence[Stage]) -> dict[str, float]:
        """Take in what is done by now; 0 where nothing moved, and for a stage that just began."""
        now, rates = time.monotonic(), {}
        for stage in stages:
            seen = self._seen.setdefault(stage.name, deque())
            if seen and stage.done < seen[-1][1]:  # the next step
                seen.clear()
            seen.append((now, stage.done))
            while now - seen[0][0] > WINDOW_S and len(seen) > 2:
                seen.popleft()
            elapsed = now - seen[0][0]
            rates[stage.name] = (stage.done - seen[0][1]) / elapsed if elapsed > 0 else 0.0
        return rates


def duration(seconds: float) -> str:
    """48 s, 3:07, 2:03:10, 3 d 4 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 86_400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
