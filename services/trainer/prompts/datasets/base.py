"""What every converter is made of: rows in, checkable prompts out, and a tally of what was left out and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from rgopd.common.errors import RgopdError

Row = dict[str, Any]

Judge = Callable[[str, str], bool]
"""judge(answer, reference): would a response ending in this boxed answer be passed against this reference?"""

BOXED = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
"""Asks for the form that the verifier looks for (the instruction of Qwen2.5's own mathematical evaluations)."""


class LeftOut(RgopdError):
    """A row that makes no checkable prompt; the text is the reason, the same for all rows of that sort."""

    kind = "left_out"


@dataclass
class Tally:
    """What became of the rows."""

    read: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    """Changes made to rows that were taken, e.g. tests cut off."""


class Converter(Protocol):
    """Turns the rows of one dataset's layout into rows that `train.dataset` reads (see `trainer/prompts/data.py`)."""

    def convert(self, rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
        """Rows with `id`, `prompt`, `kind`, `domain` and the kind's own columns; the rest is counted in `tally`."""


class RowConverter:
    """A converter that looks at one row at a time."""

    def __init__(self, one: Callable[[Row, Tally], Row]) -> None:
        self.one = one

    def convert(self, rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
        """See `Converter`."""
        for row in rows:
            tally.read += 1
            try:
                converted = self.one(row, tally)
            except LeftOut as reason:
                tally.left_out[str(reason)] += 1
                continue
            yield converted


def text(row: Row, column: str) -> str:
    """A column that must hold text.

    Raises:
        LeftOut: it is absent or empty; a whole file of these means the wrong converter.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise LeftOut(f"no text in column {column!r}")
    return value.strip()


def row_id(prefix: str, prompt: str) -> str:
    """A name that depends on the prompt alone, so that it survives another order or subset of the rows."""
    return f"{prefix}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def prompt_text(prompt: Any) -> str:
    """The prompt as one string, for comparing."""
    if isinstance(prompt, str):
        return " ".join(prompt.split())
    return " ".join(" ".join(str(m["content"]) for m in prompt).split())
