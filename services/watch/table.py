"""The numbers of a run by column: 8 bytes a value, and never more points sent than a screen can show."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

MAX_COLUMNS = 400
"""A dataset with a thousand domains makes a thousand columns; those beyond this are left to metrics.jsonl."""


def flatten(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row, nested ones too: {"verdicts": {"passed": 3}} -> verdicts/passed."""
    for key, value in row.items():
        if isinstance(value, int | float):  # True and False too
            yield prefix + key, float(value)
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")


class Table:
    """Columns over ascending steps; what a row lacks is NaN."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.columns: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> int:
        """The newest step; -1 without any."""
        return self.steps[-1] if self.steps else -1

    def append(self, step: int, row: Mapping[str, Any]) -> None:
        """Add a row; one that does not go on from the last step is passed over."""
        if step <= self.last:
            return
        size = len(self.steps)
        for name, value in flatten(row):
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= MAX_COLUMNS:
                    continue
                column = self.columns[name] = array("d")
            if len(column) < size:
                column.extend([math.nan] * (size - len(column)))
            column.append(value)
        self.steps.append(step)

    def value(self, name: str, row: int = -1) -> float | None:
        """One cell, by position; None where there is none."""
        position = row if row >= 0 else len(self.steps) + row
        column = self.columns.get(name)
        if column is None or not 0 <= position < len(column):
            return None
        return finite(column[position])

    def recent(self, name: str, count: int) -> list[float]:
        """The finite values among the last `count` rows."""
        column = self.columns.get(name, array("d"))
        first = max(0, len(self.steps) - count)
        return [float(f"{value:.6g}") for value in column[first:] if math.isfinite(value)]

    def window(self, names: Iterable[str], low: int, high: int, points: int) -> dict[str, Any]:
        """Columns between two steps, in at most `points` points.

        Returns:
            {"x": steps, "y": {name: values}}, and where several steps share a point also "low" and "high", the least
            and the greatest of them, so that a spike of one step stays visible; y is then their mean, x the last step.
        """
        steps = np.frombuffer(self.steps[:], dtype=np.int64) if self.steps else np.zeros(0, np.int64)
        first, end = int(np.searchsorted(steps, low)), int(np.searchsorted(steps, high, "right"))
        count = end - first
        wanted = [name for name in names if name in self.columns]
        if count <= points:
            x = steps[first:end].tolist()
            return {"x": x, "y": {name: rounded(self._part(name, first, end)) for name in wanted}, "exact": True}
        edges = np.linspace(0, count, points + 1).astype(np.int64)
        starts, ends = edges[:-1], edges[1:]
        answer: dict[str, Any] = {"x": steps[first + ends - 1].tolist(), "exact": False, "y": {}, "low": {}, "high": {}}
        for name in wanted:
            part = self._part(name, first, end)
            known = np.isfinite(part)
            sums = np.add.reduceat(np.where(known, part, 0.0), starts)
            counts = np.add.reduceat(known.astype(np.float64), starts)
            mean = np.divide(sums, counts, out=np.full(points, np.nan), where=counts > 0)
            answer["y"][name] = rounded(mean)
            answer["low"][name] = rounded(np.fmin.reduceat(np.where(known, part, np.nan), starts))
            answer["high"][name] = rounded(np.fmax.reduceat(np.where(known, part, np.nan), starts))
        return answer

    def _part(self, name: str, first: int, end: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Rows [first, end) of a column, float64; NaN where it is shorter than the table."""
        part = np.full(end - first, np.nan)
        known = np.frombuffer(self.columns[name][first:end], dtype=np.float64)
        part[: len(known)] = known
        return part


def finite(value: float) -> float | None:
    """The value for JSON, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def rounded(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float | None]:
    """Six significant digits: more than a plot can show, half the bytes."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def wilson(accuracy: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share of `count` trials (Wilson, JASA 1927): within 0 and 1, right for small counts."""
    if count <= 0:
        return 0.0, 1.0
    centre = accuracy + z * z / (2 * count)
    spread = z * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
