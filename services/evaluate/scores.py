"""What a table is made of: scores in percent over seeds, rows of scores, and blocks of rows ranked together."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rgopd.common.errors import ConfigError

Mode = Literal["generate", "likelihood"]
Role = Literal["ranked", "teacher", "reference"]
"""Only `ranked` rows take part in ranks and best values: the teacher is a ceiling, a reference somebody else's run."""

Documents = Mapping[str, tuple[float, float]]
"""A document's key -> (points, weight), summed over seeds: the score is the ratio of the two sums. The weight of a
document is 1 a seed, and for IFEval by instruction the number of its instructions."""


@dataclass(frozen=True, order=True)
class Column:
    """A benchmark, and how it was asked."""

    label: str
    mode: Mode = "generate"


@dataclass(frozen=True)
class Score:
    """Percent: the mean over seeds and their sample standard deviation (None where there is one pass)."""

    mean: float
    sd: float | None = None
    seeds: tuple[float, ...] = ()
    documents: Documents = field(default_factory=dict, repr=False)

    @classmethod
    def of_seeds(cls, values: Sequence[float], documents: Documents | None = None) -> Score:
        """From one value (percent) a seed. The divisor of the deviation is n - 1, as in the paper's tables."""
        if not values:
            raise ValueError("a score needs the value of at least one seed")
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), sd, tuple(values), documents or {})


@dataclass(frozen=True)
class Row:
    """A method."""

    name: str
    scores: Mapping[Column, Score]
    role: Role = "ranked"


@dataclass(frozen=True)
class Block:
    """Rows under one heading, e.g. one generation length. Δ and ranks are within a block."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ConfigError(f"two rows are called {', '.join(twice)}: name them with LABEL=PATH")

    def row(self, name: str) -> Row:
        """By name; KeyError where there is none."""
        return next(row for row in self.rows if row.name == name)

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows that are ranked."""
        return tuple(row for row in self.rows if row.role == "ranked")

    def mean(self, row: Row, column: Column) -> float | None:
        """Percent, or None where the row lacks the column."""
        score = row.scores.get(column)
        return None if score is None else score.mean

    def delta(self, row: Row, column: Column) -> float | None:
        """Points above the baseline of the block; None for the teacher, or where either is missing."""
        base = next((r for r in self.rows if r.name == self.baseline), None)
        here, there = self.mean(row, column), None if base is None else self.mean(base, column)
        return None if here is None or there is None or row.role == "teacher" else here - there

    @property
    def common(self) -> tuple[Column, ...]:
        """Columns that every ranked row has: averages and ranks over others would compare different things."""
        return tuple(c for c in self.columns if all(c in row.scores for row in self.ranked))

    def average(self, row: Row) -> float | None:
        """Mean of the common columns, as Table 2's last column; None where the row lacks one."""
        means = [self.mean(row, c) for c in self.common]
        known = [m for m in means if m is not None]
        return statistics.fmean(known) if known and len(known) == len(means) else None

    def ranks(self, column: Column) -> dict[str, float]:
        """1 is best; rows with equal means share the mean of their places."""
        return ranks({row.name: row.scores[column].mean for row in self.ranked if column in row.scores})

    def average_rank(self, row: Row) -> float | None:
        """Mean rank over the common columns; None for rows that are not ranked."""
        if row.role != "ranked" or not self.common:
            return None
        return statistics.fmean(self.ranks(c)[row.name] for c in self.common)

    def best(self, column: Column | None) -> set[str]:
        """Names of the ranked rows with the highest mean, as shown (two decimals); None: of the average."""
        shown = {
            row.name: round(value, 2)
            for row in self.ranked
            if (value := self.average(row) if column is None else self.mean(row, column)) is not None
        }
        return {name for name, value in shown.items() if value == max(shown.values())} if len(shown) > 1 else set()


def ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Competition by the highest value: ties get the mean of the places that they take together."""
    return {
        name: 1 + sum(other > value for other in values.values()) + (_equal(values.values(), value) - 1) / 2
        for name, value in values.items()
    }


def _equal(values: Iterable[float], value: float) -> int:
    return sum(other == value for other in values)
