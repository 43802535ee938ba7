"""Mutable objects that both processes hold a copy of: who changed which, and when a copy is no longer needed.

Each has a number that both sides know. Before a message leaves, what has changed here since the last one goes with
it, so a list that the program sorts is sorted in the test, and what the test appends to `node.children` arrives.
"""

from __future__ import annotations

import operator
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any

from rgopd.verifier.sandbox import packaged
from rgopd.verifier.sandbox.describe import own_parts

_MOST, _KEPT = 2048, 512
_UNUSED = 3  # the entry's reference, the loop's, and the argument of getrefcount


class Shared:
    """Numbers and snapshots.

    Args:
        sign: 1 or -1: whose numbers these are, so that both sides can give new ones.
    """

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self._count = 0
        self._entries: dict[int, list[Any]] = {}  # number -> [object, parts when last in step]
        self._numbers: dict[int, int] = {}  # id(object) -> number
        self._leaving: set[int] = set()

    def number(self, value: Any) -> int | None:
        """The number of an object, None when it has none that the other side still knows."""
        number = self._numbers.get(id(value))
        return None if number in self._leaving else number

    def leave(self, numbers: Iterable[int]) -> None:
        """The other side has forgotten them; here a message that is being read may still speak of them."""
        self._leaving.update(numbers)

    def left(self) -> None:
        """No message is being read any more."""
        self.forget(self._leaving)
        self._leaving.clear()

    def add(self, value: Any, number: int = 0) -> int:
        """Share an object; without a number, under a new one. In step as soon as `settle` is called."""
        if not number:
            self._count += 1
            number = self.sign * self._count
        self._entries[number] = [value, None]
        self._numbers[id(value)] = number
        return number

    def __getitem__(self, number: int) -> Any:
        """The object. KeyError when there is none."""
        return self._entries[number][0]

    def settle(self, number: int, seen: Any = None) -> None:
        """Both sides have it as it is now, or as it was when `seen` was taken."""
        entry = self._entries[number]
        entry[1] = parts(entry[0]) if seen is None else seen

    def changed(self) -> Iterator[tuple[int, Any]]:
        """Number and object of each that is not as it was."""
        for number, (value, before) in list(self._entries.items()):
            if before is not None and number not in self._leaving and not _same(before, parts(value)):
                yield number, value

    def unused(self) -> list[int]:
        """Forget those that nobody here holds, and the oldest where there are too many; their numbers."""
        gone = []
        for number, entry in list(self._entries.items()):
            if sys.getrefcount(entry[0]) < _UNUSED:
                gone.append(number)
                self.forget([number])  # at once: what it held may now be unused too
            del entry
        if len(self._entries) > _MOST:
            oldest = list(self._entries)[:-_KEPT]
            self.forget(oldest)
            gone += oldest
        return gone

    def forget(self, numbers: Iterable[int]) -> None:
        """The other side does not need them any more."""
        for number in numbers:
            entry = self._entries.pop(number, None)
            if entry is not None and self._numbers.get(id(entry[0])) == number:
                del self._numbers[id(entry[0])]


def parts(value: Any) -> Any:
    """What an object holds, read past any override, for comparison by identity."""
    if isinstance(value, list):
        return list.__getitem__(value, slice(None))
    if isinstance(value, OrderedDict):
        return [part for pair in OrderedDict.items(value) for part in pair]
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    if isinstance(value, set):
        return [*set.__iter__(value)]
    if isinstance(value, deque):
        return [*deque.__iter__(value)]
    if packaged.kind_of(type(value)):
        return packaged.parts(value)
    if isinstance(value, bytearray) or type(value).__module__ == "array":
        return bytes(value)
    return [part for field in fields(value).items() for part in field]


def fields(value: Any) -> dict[str, Any]:
    """The attributes of an instance, those in slots too."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        slots = own_parts(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    own = getattr(value, "__dict__", None)
    return found | own if type(own) is dict else found


def _same(before: Any, now: Any) -> bool:
    if type(now) is bytes:
        return bool(before == now)
    if type(now) is tuple:
        return bool(before[0] == now[0]) and _same(before[1], now[1])
    return len(before) == len(now) and all(map(operator.is_, before, now))


def replace(value: Any, new: Any) -> None:
    """Make an object hold what another of its kind holds, past any override."""
    if isinstance(value, list):
        list.__setitem__(value, slice(None), new)
    elif isinstance(value, OrderedDict):
        OrderedDict.clear(value)
        for key, part in new.items():
            OrderedDict.__setitem__(value, key, part)
    elif isinstance(value, dict):
        dict.clear(value)
        dict.update(value, new)
    elif isinstance(value, set):
        set.clear(value)
        set.update(value, new)
    elif isinstance(value, deque):
        deque.clear(value)
        deque.extend(value, new)
    elif packaged.kind_of(type(value)):
        packaged.replace(value, new)
    else:  # a bytearray, an array
        value[:] = new
