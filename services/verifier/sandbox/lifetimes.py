"""Objects of the program that are to die with the tests' last name for them: what holds weak references sees it.

Only where tests speak of such things; else a stand-in lives as long as its check.
"""

from __future__ import annotations

from _weakref import ref
from collections.abc import Callable
from typing import Any


class Lifetimes:
    """Stand-ins, held weakly.

    Args:
        numbers: id of a stand-in -> its object's number over there.
    """

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers
        self._held: dict[int, ref[Any]] = {}
        self._gone: list[int] = []

    def get(self, number: int) -> Any:
        """The stand-in of that number, None where it is no more."""
        held = self._held.get(number)
        return None if held is None else held()

    def keep(self, number: int, value: Any) -> Any:
        """Know a stand-in until it dies."""
        ident = id(value)

        def died(_: Any) -> None:
            self._held.pop(number, None)
            self._numbers.pop(ident, None)
            self._gone.append(number)

        if number in self._gone:  # spoken of again before the other side was told
            self._gone.remove(number)
        self._held[number] = ref(value, died)
        self._numbers[ident] = number
        return value

    def gone(self) -> list[int]:
        """The numbers that nobody here needs any more. Told once."""
        numbers, self._gone[:] = self._gone[:], []
        return numbers


def follow(mirrors: Any) -> None:
    """On the tests' side: weak references to stand-ins are made over there, and its rings are collected with ours."""
    import gc
    import weakref

    mirrors.lifetimes = Lifetimes(mirrors.numbers)
    make, collect = weakref.ref, gc.collect

    def reference(value: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        if mirrors.home(value) is None:
            return make(value, callback) if callback is not None else make(value)
        return mirrors.ask("weakref", value, value=callback)

    def collected(*args: Any) -> int:
        found = collect(*args)
        mirrors.ask("collect", None)
        return found

    weakref.ref = reference  # type: ignore[assignment]
    gc.collect = collected  # type: ignore[assignment]
