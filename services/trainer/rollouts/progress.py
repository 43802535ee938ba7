"""How far the groups in work are, stage by stage, and which stage was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rgopd.common.streams import GENERATE, SCORE, VERIFY
from rgopd.trainer.rollouts.join import Group

NAMES = {GENERATE: "sampling", VERIFY: "verifying", SCORE: "scoring"}
LOOK_S = 0.2
"""Counting thousands of rollouts at every message would be felt."""

Tell = Callable[[dict[str, tuple[int, int]]], None]


class Progress:
    """Called by the join while it waits.

    Args:
        tell: gets {stage: (done, of)}.
    """

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.waited = dict.fromkeys(NAMES.values(), 0.0)
        """Seconds spent waiting, each charged to the earliest stage that was not done."""
        self._last = time.monotonic()
        self._open = NAMES[GENERATE]

    def restart(self) -> dict[str, float]:
        """What was waited for since the last call; a step begins."""
        waited, self.waited = self.waited, dict.fromkeys(NAMES.values(), 0.0)
        self._last = time.monotonic()
        self._open = NAMES[GENERATE]
        return waited

    def __call__(self, groups: Sequence[Group], done: bool = False) -> None:
        """`done`: all are complete."""
        now = time.monotonic()
        if not groups or (not done and now - self._last < LOOK_S):
            return
        self.waited[self._open] += now - self._last
        self._last = now
        counts = counted(groups)
        self._open = next((name for name, (ended, of) in counts.items() if ended < of), self._open)
        self.tell(counts)


def counted(groups: Sequence[Group]) -> dict[str, tuple[int, int]]:
    """(ended one way or the other, all) a stage that is wanted. What was never generated has nothing to come."""
    counts: dict[str, tuple[int, int]] = {}
    for stage, name in NAMES.items():
        entries = [entry for group in groups if stage in group.wanted for entry in group.entries.values()]
        if entries:
            ended = sum(stage in e.done or stage in e.failed or GENERATE in e.failed for e in entries)
            counts[name] = (ended, len(entries))
    return counts
