"""What is wrong with a dataset, by row number: every problem up to a cap, alike ones together."""

from __future__ import annotations

from collections import defaultdict

from rgopd.common.errors import ConfigError

MAX_REASONS = 8
MAX_RANGES = 6


class Problems:
    """Collects rows that cannot be used."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.read = 0
        self._rows: dict[str, list[int]] = defaultdict(list)
        self._lines: list[str] = []

    def row(self, number: int, reason: str) -> None:
        """Row `number` (from 0) cannot be used; `reason` goes on after "row N"."""
        self._rows[reason].append(number)

    def line(self, text: str) -> None:
        """A line of the file that is no row."""
        self._lines.append(text)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values())) + len(self._lines)

    def __str__(self) -> str:
        told = self._lines[:MAX_REASONS] + [f"row{_numbers(n)}{why}" for why, n in self._rows.items()]
        more = len(self._lines[MAX_REASONS:]) + len(told[MAX_REASONS:])
        text = "; ".join(told[:MAX_REASONS]) + (f"; and {more} problems of other sorts" if more else "")
        if len(self) == 1:
            return f"dataset {self.name}, {text}"
        return f"dataset {self.name}: {len(self)} of {max(self.read, len(self))} rows cannot be used: {text}"

    def raise_if_any(self) -> None:
        """Raises `ConfigError` with all of them."""
        if len(self):
            raise ConfigError(str(self))


def _numbers(numbers: list[int]) -> str:
    """[1] -> " 1", [1, 2, 3, 7] -> "s 1-3, 7"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:MAX_RANGES])
    left = len(numbers) - sum(b - a + 1 for a, b in ranges[:MAX_RANGES])
    return f"{'s' if len(numbers) > 1 else ''} {text}" + (f" and {left} more" if left else "")
