"""Values as plain data: what crosses from hostile code to those who judge it.

`encode` runs beside the hostile code and is a convenience; `decode` is the guard: whatever the bytes are, it
makes exact builtin values or raises `NotPlain`, in time linear in the bytes. No class of the sender comes along,
so no `__eq__`, `__hash__` or `__class__` of the sender's is ever called.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rgopd.verifier.sandbox import library

_SMALL = 1 << 53
_loads = json.loads
MALFORMED = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError)
"""What the decoders raise where the bytes are no encoding."""

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
    if kind not in ENCODERS:
        kind = next((base for base in kind.__mro__ if base in ENCODERS or library.knows(base)), kind)
    encoder = ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value, other)
    return _encode_library(value, other)


def _int(value: Any, _: Other) -> Any:
    exact = int.__add__(value, 0)
    return exact if -_SMALL < exact < _SMALL else {"i": hex(exact)}


def _dict(value: Any, other: Other) -> Any:
    return {"d": [[encode(k, other), encode(v, other)] for k, v in dict.items(value)]}


ENCODERS: dict[type, Callable[[Any, Other], Any]] = {
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
    form = library.encode(value, lambda part: encode(part, other))
    if form is not None:
        return form
    if type(value).__module__ == "numpy":
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
        return _loads(line)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"not a plain value: {type(error).__name__}") from None


def _decode(value: Any, handle: Callable[[dict[str, Any]], Any] | None) -> Any:
    if type(value) is list:
        return [_decode(x, handle) for x in value]
    if type(value) is not dict:
        return value
    if "h" in value:
        if handle is None:
            raise NotPlain(f"a value of type {str(value.get('n'))[:80]!r} has no plain form")
        return handle(value)
    if len(value) != 1:
        raise NotPlain("malformed value")
    ((tag, body),) = value.items()
    try:
        if (decoder := _DECODERS.get(tag)) is not None:
            return decoder(body, handle)
        return library.DECODERS[tag](body, lambda part: _decode(part, handle))
    except MALFORMED as error:
        if isinstance(error, NotPlain):
            raise
        raise NotPlain(f"malformed value: {type(error).__name__}: {error}"[:200]) from None


def _items(body: Any, handle: Any) -> list[Any]:
    if type(body) is not list:
        raise NotPlain("malformed value")
    return [_decode(x, handle) for x in body]


def _decode_dict(body: Any, handle: Any) -> dict[Any, Any]:
    pairs = [(k, v) for k, v in _items(body, handle)]
    library.checked(k for k, _ in pairs)
    return dict(pairs)


_DECODERS: dict[str, Callable[[Any, Any], Any]] = {
    "i": lambda b, _: int(b, 16),
    "c": lambda b, _: complex(float(b[0]), float(b[1])),
    "b": lambda b, _: bytes.fromhex(b),
    "y": lambda b, _: bytearray.fromhex(b),
    "t": lambda b, h: tuple(_items(b, h)),
    "l": _items,
    "d": _decode_dict,
    "s": lambda b, h: set(library.checked(_items(b, h))),
    "f": lambda b, h: frozenset(library.checked(_items(b, h))),
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
