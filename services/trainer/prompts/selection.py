"""Leaving out prompts without advantage, and a curriculum, by the pass rates that earlier steps measured.

Deterministic: what a step takes depends on the seed and on rates of steps that every run of these settings has behind
it when it asks, so a resumed run (whose rates are read from its folder) takes the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from rgopd.trainer.prompts.config import SelectionConfig

MAX_TRIES = 64
"""Other prompts drawn for one position, before all that are not settled are listed."""


class Selection:
    """Chooses indices of prompts.

    Args:
        ids: the prompts' ids, in their order.
        known: rates that the dataset itself brings.
    """

    def __init__(self, config: SelectionConfig, ids: list[str], known: Mapping[str, float]) -> None:
        self.config = config
        self.ids = ids
        self.rates: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._listed: dict[range, list[int]] = {}
        self._listed_before: int | None = None
        for item, rate in known.items():
            self.rates[item].append((-1, rate))

    def note(self, step: int, prompt_id: str, rate: float) -> None:
        """A step measured the share of right responses to a prompt; said again for the same step, the last counts."""
        self._listed_before = None
        rates = self.rates[prompt_id]
        rates[:] = [*(r for r in rates if r[0] != step), (step, rate)]
        rates.sort()

    def rate(self, prompt_id: str, before: int) -> tuple[int, float] | None:
        """(step, rate) of the newest measurement by a step before `before`."""
        return next((r for r in reversed(self.rates.get(prompt_id, [])) if r[0] < before), None)

    def choose(self, first: int, taken: set[int], seed: int, position: int, before: int, among: range) -> int:
        """The prompt of a position whose own would be `first`.

        Args:
            taken: those of the step so far.
            among: the dataset of a mixture that the position belongs to: another prompt of it takes the place, so that
                shares stay; one of another dataset only where all of it are settled. With all of everything settled
                the position keeps its own.
        """
        candidates = self._candidates(first, taken, seed, position, before, among)
        fit = (c for c in candidates if not self.config.skip or not self._settled(self.ids[c], before))
        if self.config.target is None:
            return next(fit, first)
        few = [c for _, c in zip(range(self.config.candidates), fit, strict=False)]
        return min(few, key=lambda c: self._distance(self.ids[c], before), default=first)

    def _candidates(
        self, first: int, taken: set[int], seed: int, position: int, before: int, among: range
    ) -> Iterator[int]:
        if first not in taken:
            yield first
        draw = np.random.default_rng([seed, position, 1 << 21])
        everything = range(len(self.ids))
        for group in (among,) if self.config.skip else (among, everything):
            for other in draw.integers(group.start, group.stop, size=MAX_TRIES).tolist():
                if other != first and other not in taken:
                    yield other
        for group in (among, everything) if self.config.skip else ():
            if left := self._left(before, group):
                start = int(draw.integers(len(left)))
                yield from (other for other in left[start:] + left[:start] if other not in taken)

    def _left(self, before: int, among: range) -> list[int]:
        """Those of a dataset that are not settled."""
        if self._listed_before != before:
            self._listed, self._listed_before = {}, before
        if among not in self._listed:
            self._listed[among] = [i for i in among if not self._settled(self.ids[i], before)]
        return self._listed[among]

    def _settled(self, prompt_id: str, before: int) -> bool:
        found = self.rate(prompt_id, before)
        if found is None:
            return False
        step, rate = found
        recheck = self.config.recheck_steps
        stale = recheck > 0 and before - step > recheck
        return not stale and not self.config.min_rate < rate < self.config.max_rate

    def _distance(self, prompt_id: str, before: int) -> float:
        """From the target; what was never measured counts as solved half of the time."""
        found = self.rate(prompt_id, before)
        assert self.config.target is not None
        return abs((0.5 if found is None else found[1]) - self.config.target)
