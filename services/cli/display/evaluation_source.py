"""Moments of `rgopd eval`: the model loads, then requests of one cell after the other are answered."""

from __future__ import annotations

from typing import Protocol

from rgopd.cli.display.snapshot import Snapshot, Stage


class Counting(Protocol):
    """What `rgopd.evaluate.progress.Progress` counts."""

    title: str
    requests: int
    answered: int
    shown: bool

    def left_s(self) -> float | None:
        """Seconds to the end of all."""


class EvaluationSource:
    """Gives a `Snapshot` of an evaluation; before `follow` it is loading."""

    def __init__(self) -> None:
        self.counting: Counting | None = None

    def follow(self, counting: Counting) -> None:
        """Requests are counted from now on; this display tells of them."""
        counting.shown = True
        self.counting = counting

    def __call__(self) -> Snapshot:
        """Now."""
        counting = self.counting
        if counting is None:
            return Snapshot("loading model and data")
        stages = [Stage("answers", counting.answered, counting.requests)] if counting.answered else []
        return Snapshot(counting.title or "loading", stages=stages, left_s=counting.left_s())
