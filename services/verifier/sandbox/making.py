"""The value classes that classes of the other process derive from, and instances that hold a value's data."""

from __future__ import annotations

from typing import Any

from rgopd.verifier.sandbox import library, plain

_VALUE_TYPES = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_DATES = {
    "date": ("year", "month", "day"),
    "datetime": ("year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo"),
    "time": ("hour", "minute", "second", "microsecond", "tzinfo"),
    "timedelta": ("days", "seconds", "microseconds"),
}


def named_tuple(name: str, fields: list[str]) -> type:
    """A class of named tuples."""
    from collections import namedtuple

    make: Any = namedtuple  # its arguments are to be literals
    made: type = make(name, fields)
    return made


def value_type(name: str) -> type:
    """The class of that name. Raises NotPlain where it is no value's."""
    module, _, rest = name.rpartition(".")
    found = library.class_of(module, rest) if module else library.TYPES.get(rest)
    if found is None or (not module and found not in _VALUE_TYPES):
        raise plain.NotPlain(f"no value class {name}"[:100])
    return found


def with_data(kind: type, base: str, data: Any) -> Any:
    """An instance with that data; the data alone where the class cannot be filled from outside."""
    kind_of_value: Any = value_type(base)
    if data is None:  # mutable, filled later
        return kind_of_value.__new__(kind)
    if not isinstance(data, kind_of_value):
        raise plain.NotPlain(f"not the data of a {base}")
    names = _DATES.get(kind_of_value.__name__)
    if names is not None:
        return kind_of_value.__new__(kind, *(getattr(data, name) for name in names))
    if base in ("bool", "uuid.UUID") or "." in base and base not in ("decimal.Decimal", "fractions.Fraction"):
        return data
    return kind_of_value.__new__(kind, data)
