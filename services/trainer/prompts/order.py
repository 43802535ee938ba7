"""Which prompt stands at a position: pure functions of (seed, position), so that a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import floor

import numpy as np

BLOCK = 64
"""Positions over which a mixture keeps its shares to within one prompt of each dataset."""


@lru_cache(maxsize=64)
def _order(size: int, key: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(list(key)).permutation(size)


def shuffled(size: int, seed: int, position: int, dataset: int = 0) -> int:
    """Index of a row at a position of the endless, epoch-wise shuffled order of one dataset."""
    epoch, offset = divmod(position, size)
    key = (seed, epoch, dataset) if dataset else (seed, epoch)
    return int(_order(size, key)[offset])


def mixed(weights: Sequence[float], seed: int, position: int) -> tuple[int, int]:
    """(dataset, position within it) at a position of a mixture whose shares follow the weights.

    After every BLOCK positions each dataset has had its share to within one prompt; within a block the order is drawn.
    """
    block, offset = divmod(position, BLOCK)
    before, counts = _counts(tuple(weights), block)
    slots = np.repeat(np.arange(len(weights)), counts)
    drawn = slots[np.random.default_rng([seed, block, 1 << 20]).permutation(BLOCK)]
    chosen = int(drawn[offset])
    return chosen, before[chosen] + int((drawn[:offset] == chosen).sum())


@lru_cache(maxsize=1024)
def _counts(weights: tuple[float, ...], block: int) -> tuple[list[int], list[int]]:
    """How many positions each dataset had before a block, and has in it; cumulative rounding keeps the sum exact."""
    edges = np.cumsum([0.0, *weights]) / sum(weights)

    def taken(positions: int) -> list[int]:
        at = [floor(edge * positions + 1e-9) for edge in edges]
        at[-1] = positions
        return [b - a for a, b in zip(at, at[1:], strict=False)]

    before, after = taken(block * BLOCK), taken((block + 1) * BLOCK)
    return before, [b - a for a, b in zip(before, after, strict=True)]
