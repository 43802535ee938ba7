"""What test code may learn by asking a program's object, and what is decided beside the tests from plain data.

An object could say yes to `==` without knowing the answer, and it would learn the answer from being asked. So a plain
value is never compared over there: it is compared here with the object's own data, which the object gives without
knowing what for. Objects of the program are compared with each other by asking.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from rgopd.verifier.sandbox import library
from rgopd.verifier.sandbox.describe import BINARY, COMPARISONS
from rgopd.verifier.sandbox.mirror import Mirrors

_MIRRORED = {"__lt__": "__gt__", "__gt__": "__lt__", "__le__": "__ge__", "__ge__": "__le__", "__eq__": "__eq__"}
_NUMBERS = (int, float, complex)
_DIFFERENCES = ("sub", "truediv", "floordiv", "mod", "xor", "divmod")
_NARROWING = ("__abs__", "__round__", "__float__", "__int__", "__index__", "__complex__", "__bool__", "__trunc__")
_TESTED = (*_NARROWING, "__floor__", "__ceil__", "__invert__")


class Judging:
    """The rules for stand-ins beside the tests. `mirrors` is set before the first is made."""

    def __init__(self) -> None:
        self.mirrors: Mirrors
        self.named: set[type] = set()
        self._differences: dict[int, Any] = {}

    def name(self, value: Any) -> None:
        """The tests speak of this class by its name: they mean its operators."""
        if isinstance(value, type):
            self.named.add(value)

    def special(self, name: str) -> Callable[..., Any] | None:
        """Comparisons, `in`, arithmetic with plain numbers; all else asks."""
        if name in COMPARISONS:
            return lambda value, other: self._compare(name, value, other)
        if name == "__contains__":
            return lambda value, item: self._contains(value, item)
        if name in BINARY:
            return lambda value, *others: self._binary(name, value, *others)
        if name in _TESTED:
            return lambda value, *args: self._narrow(name, value, *args)
        if name == "__hash__":
            return lambda value: self._hash(value)
        return None

    def _ask(self, name: str, value: Any, *args: Any) -> Any:
        return self.mirrors.ask("special", value, name=name, args=args)

    def _is_there(self, value: Any) -> bool:
        return self.mirrors.home(value) is not None

    # --- comparisons

    def _compare(self, name: str, value: Any, other: Any) -> Any:
        if self._is_there(other):
            return self._truth(self._ask(name, value, other))
        if type(other) not in _PLAIN and not library.knows(type(other)):
            return NotImplemented if other is not None else name == "__ne__"  # of the tests' own: let it decide
        if name in ("__eq__", "__ne__"):
            return self._equals(value, other) == (name == "__eq__")
        view = self._view(value, other)
        return NotImplemented if view is None else getattr(operator, name)(view, other)

    def _equals(self, value: Any, other: Any) -> bool:
        view = self._view(value, other)
        if view is None or view is NotImplemented or not bool(view == other):
            return False
        # It is told nothing that it has not said itself, and can only deny it.
        return _data(value) is not None or bool(self._ask("__eq__", value, other))

    @staticmethod
    def _truth(answer: Any) -> Any:
        return answer if answer is NotImplemented or isinstance(answer, bool) else bool(answer)

    def _view(self, value: Any, other: Any) -> Any:
        """The object's own data, as a value of the other's kind; None: it has none."""
        if (data := _data(value)) is not None:
            return data
        if id(value) in self._differences or type(other) is bool:
            return None
        has = {
            name for kind in type(value).__mro__ if self._is_there(kind) for name in self.mirrors.describes(kind)["s"]
        }
        for name, function, kinds in _VIEWS:
            if name in has and isinstance(other, kinds):
                return function(self, value, other)
        return self._field_view(value, other)

    def _field_view(self, value: Any, other: Any) -> Any:
        held = self.mirrors.ask("get", value, name="__dict__")
        if type(held) is not dict:
            return None
        parts = list(held.values())
        if len(parts) == 1 and not self._is_there(parts[0]) and type(parts[0]) in (type(other), int, float):
            return parts[0]
        return held if isinstance(other, dict) else tuple(parts) if isinstance(other, tuple) else None

    def items(self, value: Any, other: Any) -> Any:
        """The items of an iterable object, as many as would do, as a container of the other's type."""
        found = []
        for item in value:
            found.append(item)
            if len(found) > len(other):
                break
        kind = type(other)
        if kind in (set, frozenset) and len(found) != len(other):
            return None
        return kind(found) if kind in (list, tuple, set, frozenset) else found

    def table(self, value: Any, other: Any) -> Any:
        """The items of a mapping object."""
        return {key: value[key] for key in self.items(value, list(other))}

    # --- the rest

    def _contains(self, value: Any, item: Any) -> bool:
        data = _data(value)
        if data is not None and not self._is_meant(value):
            return item in data
        if self._is_there(item) or self._is_meant(value):
            return bool(self._ask("__contains__", value, item))
        return any(found is item or found == item for found in value)

    def _is_meant(self, value: Any) -> bool:
        """Do the tests name its class?"""
        return (
            not self.named.isdisjoint(type(value).__mro__)
            or isinstance(value, type)
            and any(value is kind for kind in self.named)
        )

    def _binary(self, name: str, value: Any, *others: Any) -> Any:
        """An operator. With a plain operand only where the tests mean the class, and then a plain number that comes of
        a number has to be what the object's own number gives."""
        other = others[0]
        if self._is_there(other):
            return self._ask(name, value, *others)
        data = _data(value)
        if not self._is_meant(value):
            if data is None or isinstance(other, type):
                return NotImplemented
            return _on_data(name, data, *others)
        result = self._ask(name, value, *others)
        differs = any(part in name for part in _DIFFERENCES) or id(value) in self._differences
        if self._is_there(result):
            if differs and isinstance(other, _NUMBERS) and not (result is value and name.startswith("__i")):
                self._differences[id(result)] = result
            return result
        if isinstance(result, _NUMBERS) and isinstance(other, _NUMBERS):
            view = self._view(value, other)
            own = NotImplemented if view is None else _on_data(name, view, *others)
            return own if own is NotImplemented or own != result else result
        return result

    def _narrow(self, name: str, value: Any, *args: Any) -> Any:
        """To a number or a truth. What a difference from a plain number amounts to is not the object's to say."""
        data = _data(value)
        if data is not None and not self._is_meant(value):
            return bool(data) if name == "__bool__" else getattr(type(data), name)(data, *args)
        if id(value) in self._differences:
            raise TypeError("an object that came of arithmetic with a plain number is not a number for its test")
        return self._ask(name, value, *args)

    def _hash(self, value: Any) -> int:
        data = _data(value)
        return hash(data) if data is not None else int(self._ask("__hash__", value))


_PLAIN = frozenset(library.TYPES.values())


def _by(function: Callable[[Any], Any]) -> Callable[[Judging, Any, Any], Any]:
    return lambda judging, value, other: function(value)


_VIEWS: tuple[tuple[str, Callable[[Judging, Any, Any], Any], tuple[type, ...]], ...] = (
    ("__index__", _by(operator.index), _NUMBERS),
    ("__float__", _by(float), _NUMBERS),
    ("__int__", _by(int), (int,)),
    ("__complex__", _by(complex), (complex,)),
    ("__str__", _by(str), (str,)),
    ("__bytes__", _by(bytes), (bytes, bytearray)),
    ("__getitem__", Judging.table, (dict,)),
    ("__iter__", Judging.items, (list, tuple, set, frozenset, range)),
    ("__getitem__", Judging.items, (list, tuple, range)),
)


def _data(value: Any) -> Any:
    """The plain data of an instance of a class derived from a value's, without its class; None: it is none."""
    return next((exact(value) for kind, exact in _EXACT.items() if isinstance(value, kind)), None)


_EXACT: dict[type, Callable[[Any], Any]] = {
    int: lambda v: int.__add__(v, 0),
    float: float.__float__,
    complex: lambda v: complex.__add__(v, 0),
    str: str.__str__,
    bytes: lambda v: bytes.__add__(v, b""),
    tuple: lambda v: tuple(tuple.__iter__(v)),
    list: lambda v: list(list.__iter__(v)),
    dict: lambda v: dict(dict.items(v)),
    set: lambda v: set(set.__iter__(v)),
    frozenset: lambda v: frozenset(frozenset.__iter__(v)),
    bytearray: lambda v: bytearray(bytes(v)),
}


def _on_data(name: str, data: Any, *others: Any) -> Any:
    method = getattr(type(data), name, None)
    if method is not None:
        return method(data, *others)
    plain = name.replace("__i", "__", 1) if name.startswith("__i") else name  # in place: a new number
    function = BINARY.get(plain)
    try:
        return NotImplemented if function is None else function(data, *others)
    except TypeError:
        return NotImplemented
