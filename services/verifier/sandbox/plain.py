"""Values as plain data: what crosses from hostile code to those who judge it.

`encode` runs beside the hostile code and is a convenience; `decode` is the guard: whatever the bytes are, it
makes exact builtin values or raises `NotPlain`, in time linear in the bytes. No class of the sender comes along,
so no `__eq__`, `__hash__` or `__class__` of the sender's is ever called.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractions import Fraction

_SMALL = 1 << 53
_MAX_EQUAL_HASHES = 64
_BASES = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)

Other = Callable[[Any], dict[str, Any]]
"""Encodes what is not plain (as a handle), or raises NotPlain."""


class NotPlain(ValueError):
    """A value that has no plain form, or bytes that are none."""


def refuse(value: Any) -> dict[str, Any]:
    """The default for values without a plain form."""
    raise NotPlain(f"a value of type {type(value).__name__} has no plain form")


def encode(value: Any, other: Other = refuse) -> Any:
    """JSON-ready form. Subclasses are read through their builtin base, past any override."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind not in _BASES:
        kind = next((base for base in _BASES if base in kind.__mro__), kind)
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value, other)
    return _encode_library(value, other)


def _int(value: Any, _: Other) -> Any:
    exact = int.__add__(value, 0)
    return exact if -_SMALL < exact < _SMALL else {"i": hex(exact)}


def _dict(value: Any, other: Other) -> Any:
    return {"d": [[encode(k, other), encode(v, other)] for k, v in dict.items(value)]}


_ENCODERS: dict[type, Callable[[Any, Other], Any]] = {
    bool: lambda v, _: v,
    int: _int,
    float: lambda v, _: float.__float__(v),
    complex: lambda v, _: {"c": [complex.real.__get__(v), complex.imag.__get__(v)]},
    str: lambda v, _: str.__str__(v),
    bytes: lambda v, _: {"b": bytes.hex(v)},
    bytearray: lambda v, _: {"y": bytearray.hex(v)},
    tuple: lambda v, o: {"t": [encode(x, o) for x in tuple.__iter__(v)]},
    list: lambda v, o: [encode(x, o) for x in list.__iter__(v)],
    dict: _dict,
    set: lambda v, o: {"s": [encode(x, o) for x in set.__iter__(v)]},
    frozenset: lambda v, o: {"f": [encode(x, o) for x in frozenset.__iter__(v)]},
}


def _encode_library(value: Any, other: Other) -> Any:
    kind = type(value)
    if kind is range:
        return {"r": [_int(n, other) for n in (value.start, value.stop, value.step)]}
    if kind.__module__ == "decimal" and kind.__name__ == "Decimal":
        return {"D": str(value)}
    if kind.__module__ == "fractions" and kind.__name__ == "Fraction":
        return {"F": [hex(value.numerator), hex(value.denominator)]}
    if kind.__module__ == "collections" and kind.__name__ == "deque":
        return [encode(x, other) for x in value]
    if kind.__name__ in ("dict_keys", "dict_values", "dict_items") and kind.__module__ == "builtins":
        return {"s" if kind.__name__ == "dict_keys" else "l": [encode(x, other) for x in value]}
    if kind.__module__ == "numpy":
        return encode(value.tolist(), other)
    return other(value)


def decode(value: Any, handle: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Exact builtin values from parsed JSON.

    Args:
        value: what json.loads made.
        handle: makes something of {"h": id, ...}; None refuses handles.

    Raises:
        NotPlain: not an encoding, too deep, or made to be slow.
    """
    try:
        return _decode(value, handle)
    except RecursionError:
        raise NotPlain("the value nests too deeply") from None


def loads(line: bytes, handle: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse and decode; NotPlain for whatever is wrong with the bytes."""
    return decode(parse(line), handle)


def parse(line: bytes) -> Any:
    """json.loads that says NotPlain for whatever is wrong with the bytes."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"not a plain value: {type(error).__name__}") from None


def _decode(value: Any, handle: Callable[[dict[str, Any]], Any] | None) -> Any:
    if type(value) is list:
        return [_decode(x, handle) for x in value]
    if type(value) is not dict:
        return value
    if "h" in value or "o" in value:
        if handle is None:
            raise NotPlain(f"a value of type {str(value.get('n'))[:80]!r} has no plain form")
        return handle(value)
    if len(value) != 1:
        raise NotPlain("malformed value")
    ((tag, body),) = value.items()
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise NotPlain("malformed value")
    try:
        return decoder(body, handle)
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
        if isinstance(error, NotPlain):
            raise
        raise NotPlain(f"malformed value: {type(error).__name__}") from None


def _items(body: Any, handle: Any) -> list[Any]:
    if type(body) is not list:
        raise NotPlain("malformed value")
    return [_decode(x, handle) for x in body]


def _hashable(values: Iterable[Any]) -> list[Any]:
    checked = list(values)
    # Numbers hash to themselves modulo 2**61-1, so a sender can make a million keys collide: quadratic time.
    counts = Counter(hash(v) for v in checked)
    if counts and max(counts.values()) > _MAX_EQUAL_HASHES:
        raise NotPlain("too many keys with the same hash")
    return checked


def _decode_dict(body: Any, handle: Any) -> dict[Any, Any]:
    pairs = [(k, v) for k, v in _items(body, handle)]
    _hashable(k for k, _ in pairs)
    return dict(pairs)


def _fraction(numerator: str, denominator: str) -> Fraction:
    if len(numerator) + len(denominator) > 20_000:
        raise NotPlain("the fraction is too long")  # its gcd takes quadratic time
    from fractions import Fraction  # not before it is needed: the zygote is kept small

    return Fraction(int(numerator, 16), int(denominator, 16))


def _decimal(text: Any) -> Any:
    from decimal import Decimal

    return Decimal(str(text))


_DECODERS: dict[str, Callable[[Any, Any], Any]] = {
    "i": lambda b, _: int(b, 16),
    "c": lambda b, _: complex(float(b[0]), float(b[1])),
    "b": lambda b, _: bytes.fromhex(b),
    "y": lambda b, _: bytearray.fromhex(b),
    "t": lambda b, h: tuple(_items(b, h)),
    "l": _items,
    "d": _decode_dict,
    "s": lambda b, h: set(_hashable(_items(b, h))),
    "f": lambda b, h: frozenset(_hashable(_items(b, h))),
    "r": lambda b, h: range(*_items(b, h)),
    "D": lambda b, _: _decimal(b),
    "F": lambda b, _: _fraction(str(b[0]), str(b[1])),
}


def short(value: Any, width: int = 200) -> str:
    """A bounded repr for reasons: never spells out a huge number, never fails."""
    if type(value) is int and value.bit_length() > 600:
        return f"<int of {value.bit_length()} bits>"
    if isinstance(value, (str, bytes)):
        text = repr(value[: width + 1])
    elif isinstance(value, (list, tuple, set, frozenset, dict)):
        return _short_container(value, width)
    else:
        try:
            text = repr(value)
        except (ValueError, RecursionError):
            text = f"<{type(value).__name__}>"
    return text if len(text) <= width else text[:width] + "…"


def _short_container(value: Any, width: int, depth: int = 0) -> str:
    import reprlib

    shortener = reprlib.Repr()
    shortener.maxlevel, shortener.maxother, shortener.maxstring, shortener.maxlong = 4, 60, 60, 60
    shortener.maxlist = shortener.maxtuple = shortener.maxset = shortener.maxfrozenset = shortener.maxdict = 8
    try:
        text = shortener.repr(value)
    except (ValueError, RecursionError):
        text = f"<{type(value).__name__} of {len(value)}>"
    return text if len(text) <= width else text[:width] + "…"
