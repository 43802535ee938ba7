"""Paired bootstrap over documents: is the difference of two rows more than the luck of the draw of questions?

Both rows answered the same documents, so a document is drawn with both of its results; seeds of a row are summed within
a document first (Efron and Tibshirani 1993, chapter 16; Koehn 2004 for paired use). The paper reports no such interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rgopd.evaluate.scores import Documents

DRAWS = 10_000
CHUNK = 2_000_000
"""Random numbers held at a time."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Points (percent) of one row above another, with the central 95% of the bootstrap and a two-sided p."""

    delta: float
    low: float
    high: float
    p: float
    documents: int

    @property
    def significant(self) -> bool:
        """At 5%, for this comparison alone."""
        return self.p < 0.05


def paired(row: Documents, other: Documents, *, draws: int = DRAWS, seed: int = 0) -> Difference | None:
    """`row` minus `other` on the same documents; None where the documents are not the same, or are fewer than two."""
    if set(row) != set(other) or len(row) < 2:
        return None
    keys = sorted(row)
    table_D4 = np.array([[*row[k], *other[k]] for k in keys], dtype=np.float64)
    drawn = np.concatenate([_draw(table_D4, n, rng) for n, rng in _parts(draws, len(keys), seed)])
    return difference(_ratio(table_D4.sum(0)), drawn, len(keys))


def difference(delta: float, drawn: Floats, documents: int) -> Difference:
    """From the observed difference and those of the draws. p has the (b + 1)/(n + 1) correction: it is never 0."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(delta, float(low), float(high), min(1.0, 2 * (tail + 1) / (len(drawn) + 1)), documents)


def holm(p: Sequence[float]) -> list[float]:
    """p adjusted for having made several comparisons (Holm 1979), in the order given."""
    adjusted, running = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = running
    return adjusted


def _parts(draws: int, documents: int, seed: int) -> list[tuple[int, np.random.Generator]]:
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // documents)
    return [(min(size, draws - start), rng) for start in range(0, draws, size)]


def _draw(table_D4: Floats, draws: int, rng: np.random.Generator) -> Floats:
    documents = len(table_D4)
    picks = rng.integers(0, documents, size=(draws, documents))
    counts_ND = np.stack([np.bincount(row, minlength=documents) for row in picks]).astype(np.float64)
    sums_N4 = counts_ND @ table_D4
    return np.asarray(100 * (sums_N4[:, 0] / sums_N4[:, 1] - sums_N4[:, 2] / sums_N4[:, 3]))


def _ratio(sums_4: Floats) -> float:
    result = 100 * (sums_4[0] / sums_4[1] - sums_4[2] / sums_4[3])
    return 0.0 if math.isclose(result, 0.0, abs_tol=1e-12) else float(result)
