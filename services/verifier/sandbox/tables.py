"""What one side of a conversation remembers of the values that have crossed."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from rgopd.verifier.sandbox.mirror import Mirrors
from rgopd.verifier.sandbox.shared import Shared

ATOMS = (bool, float, str)
NUMPY_KINDS = "biufc"


class Tables:
    """Numbers of shared values, of objects that are held here, and of classes.

    Args:
        sign: 1 or -1: whose numbers are positive.
        mirrors: makes stand-ins.
        exportable: raises NotPlain for an object that the other side may not hold.
        readable: raises NotPlain for an attribute that it may not name.
    """

    def __init__(
        self,
        sign: int,
        mirrors: Mirrors,
        exportable: Callable[[Any], None],
        readable: Callable[[Any, str], None],
    ) -> None:
        self.readable = readable
        self.shared = Shared(sign)
        self.mirrors = mirrors
        self.exportable = exportable
        self.by_value: dict[str, type] = {}
        self._exports: dict[int, Any] = {}
        self._next = itertools.count(1).__next__
        self._numbers: dict[int, int] = {}  # id -> number of an exported object
        self._classes: dict[int, type] = {}
        self._new: list[Any] = []  # definitions of shared objects that go with the next message
        self._queue: list[tuple[list[Any], Any]] = []  # of those, the ones that still need their form
        self._described: list[Any] = []
        self._reading = 0
        self._seen: dict[int, Any] = {}  # what a shared object held when its form was made

    def release(self, numbers: Iterable[int]) -> None:
        """Objects that the other side has no name for any more."""
        for number in numbers:
            if number not in self._classes:
                value = self._exports.pop(number, None)
                self._numbers.pop(id(value), None)
                del value


def builtin_exception(name: str) -> type[BaseException] | None:
    """The builtin exception of that name, None where there is none."""
    found = getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
