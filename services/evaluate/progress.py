"""How far an evaluation is, and how long it will take: lines for people, one every few seconds while a cell runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

EVERY_S = 10.0


class Progress:
    """Counts answered requests through lm-eval's cache hook, which every backend calls for each of them.

    Time left: requests weigh by the tokens they may generate, so far and to come, at the rate of this evaluation.
    """

    def __init__(self, total: float, say: Callable[[str], None], done: float = 0.0) -> None:
        self.total, self.done, self.say = total, done, say
        self.started, self.before = time.monotonic(), done
        self.next_line = self.started + EVERY_S
        self.title, self.requests, self.answered, self.weight = "", 0, 0, 0.0
        self.dbdict = None  # lm-eval's own hook has it
        self.shown = False
        """Somebody draws it: no lines of its own."""

    def begin(self, title: str, requests: int, weight: float) -> None:
        """A cell of so many requests, and what it weighs in all."""
        self.title, self.requests, self.answered, self.weight = title, requests, 0, weight

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """lm-eval's hook: one answer is there."""
        self.answered = min(self.answered + 1, self.requests)
        if not self.shown and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + EVERY_S
            left = self.left()
            self.say(f"  {self.title}: {self.answered}/{self.requests}" + (f", {left} left in all" if left else ""))

    def finish(self) -> str:
        """The cell is done; what is left, for its line."""
        self.done += self.weight
        self.answered, self.weight = 0, 0.0
        return self.left()

    def left(self) -> str:
        """Like '1 h 05 min', or nothing before there is a rate."""
        seconds = self.left_s()
        return "" if seconds is None else span(seconds)

    def left_s(self) -> float | None:
        """Seconds to the end of all cells; None before there is a rate."""
        here = self.done + self.weight * (self.answered / self.requests if self.requests else 0.0)
        gone = here - self.before
        return (self.total - here) * (time.monotonic() - self.started) / gone if gone > 0 else None


def span(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
