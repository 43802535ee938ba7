"""Prompts of a dataset that is read while the run goes on: rows shuffled within a window, one window in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from rgopd.common.errors import ConfigError
from rgopd.protos import rollout_pb2

Prompt = rollout_pb2.Prompt


class Stream:
    """Positions of an endless pass over `read()`: epoch after epoch, window by window, shuffled in each.

    What stands at a position depends on seed and position alone; going back (a redrawn group, a resumed run) reads
    from the epoch's start again, except within the last two windows.

    Args:
        read: starts a pass over the usable prompts.
        window: prompts that are shuffled among each other.
    """

    def __init__(self, read: Callable[[], Iterator[Prompt]], window: int) -> None:
        self.read = read
        self.window = window
        self._size: int | None = None
        """Prompts in a pass, once one was read to its end."""
        self._windows: dict[int, list[Prompt]] = {}
        self._rows: Iterator[Prompt] | None = None
        self._next = 0

    def at(self, seed: int, position: int) -> Prompt:
        """The prompt at a position.

        Raises:
            ConfigError: the dataset has none.
        """
        epoch = 0
        if self._size is not None:
            epoch, position = divmod(position, self._size)
        number, offset = divmod(position, self.window)
        window = self._window(number)
        if offset >= len(window):  # the pass ends before this position: now its size is known
            if not self._size:
                raise ConfigError("the dataset has no usable rows")
            return self.at(seed, position)
        order = np.random.default_rng([seed, epoch, number]).permutation(len(window))
        return window[int(order[offset])]

    def _window(self, number: int) -> list[Prompt]:
        if number in self._windows:
            return self._windows[number]
        if self._rows is None or number < self._next:
            self._rows, self._next = self.read(), 0
        while True:
            index, window = self._next, list(islice(self._rows, self.window))
            self._next += 1
            self._windows[index] = window
            for old in [n for n in self._windows if not index - 1 <= n <= index]:
                del self._windows[old]
            if len(window) < self.window:
                self._size, self._rows = index * self.window + len(window), None
                return window if index == number else []
            if index == number:
                return window
