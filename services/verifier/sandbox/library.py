"""Values of the standard library as plain data: dates, paths, queues, counters and their kin, each rebuilt as such.

Modules are imported where a value of theirs arrives, not before: the zygote is kept small. What is rebuilt is made
by the class itself out of checked plain parts, so a sender chooses values, never behaviour.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import MappingProxyType, SimpleNamespace
from typing import Any

REPLACED: dict[tuple[str, str], Any] = {}
"""(module, name) -> what a library's module called so before tests put something else there."""

Each = Callable[[Any], Any]
"""Encodes or decodes a part."""

_MAX_DIGITS = 20_000
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        bytearray,
        tuple,
        list,
        dict,
        set,
        frozenset,
        object,
        range,
        slice,
    )
}
TYPES |= {"NoneType": type(None), "type": type}
"""Classes that cross as themselves. No functions: what a program returns must never run beside the tests."""
_DATES = ("date", "time", "datetime", "timedelta", "timezone")
_FACTORIES = ("int", "float", "complex", "str", "bytes", "list", "dict", "set", "tuple", "bool")


def knows(kind: type) -> bool:
    """Is this exactly one of these classes?"""
    return (kind.__module__, kind.__name__) in _ENCODERS


def encode(value: Any, each: Each) -> dict[str, Any] | None:
    """The plain form of an exact or derived library value, read past any override; None: not one of these."""
    for kind in type(value).__mro__[:-1]:
        encoder = _ENCODERS.get((kind.__module__, kind.__name__))
        if encoder is not None:
            return encoder(value, each)
    return None


def base_of(kind: type) -> str:
    """The name of the immutable library class that a class is or derives from, '' for none."""
    for base in kind.__mro__[:-1]:
        key = (base.__module__, base.__name__)
        if key in _ENCODERS and key not in MUTABLE and base.__name__ not in _FINAL:
            return f"{key[0]}.{key[1]}"
    return ""


def _pairs(value: Any, each: Each) -> list[Any]:
    return [[each(k), each(v)] for k, v in dict.items(value)]


def _date(value: Any, each: Each) -> dict[str, Any]:
    kind = next(
        base.__name__ for base in type(value).__mro__ if base.__module__ == "datetime" and base.__name__ in _DATES
    )
    if kind == "timedelta":
        parts: list[Any] = [value.days, value.seconds, value.microseconds]
    elif kind == "timezone":
        parts = [each(value.utcoffset(None)), value.tzname(None)]
    else:
        parts = [value.year, value.month, value.day] if kind != "time" else []
        if kind != "date":
            parts += [value.hour, value.minute, value.second, value.microsecond, value.fold, _zone(value, each)]
    return {"T": [kind, *parts]}


def _zone(value: Any, each: Each) -> Any:
    """A time zone of another class is what it says for this moment."""
    zone = value.tzinfo
    if zone is None:
        return None
    if type(zone).__module__ == "zoneinfo" and isinstance(getattr(zone, "key", None), str):
        return {"T": ["zone", zone.key]}
    if (type(zone).__module__, type(zone).__name__) == ("datetime", "timezone"):
        return each(zone)
    offset = value.utcoffset()
    return None if offset is None else {"T": ["timezone", each(offset), str(value.tzname())]}


def _decimal(value: Any, _: Each) -> dict[str, Any]:
    import decimal

    return {"D": decimal.Decimal.__str__(value)}


def _path(value: Any, _: Each) -> dict[str, Any]:
    import pathlib

    kind = "Windows" if isinstance(value, pathlib.PureWindowsPath) else "Posix"
    return {"P": [kind if isinstance(value, pathlib.Path) else f"Pure{kind}", pathlib.PurePath.__str__(value)]}


def _default_dict(value: Any, each: Each) -> dict[str, Any]:
    factory = value.default_factory
    known = isinstance(factory, type) and TYPES.get(factory.__name__) is factory
    return {"u": [_pairs(value, each), factory.__name__ if known else None if factory is None else each(factory)]}


def _view(name: str) -> Callable[[Any, Each], dict[str, Any]]:
    return lambda value, each: {"V": [name, [each(x) for x in value]]}


_ENCODERS: dict[tuple[str, str], Callable[[Any, Each], dict[str, Any]]] = {
    ("builtins", "range"): lambda v, each: {"r": [each(n) for n in (v.start, v.stop, v.step)]},
    ("builtins", "slice"): lambda v, each: {"S": [each(n) for n in (v.start, v.stop, v.step)]},
    ("builtins", "ellipsis"): lambda v, _: {"E": "Ellipsis"},
    ("builtins", "NotImplementedType"): lambda v, _: {"E": "NotImplemented"},
    ("builtins", "memoryview"): lambda v, _: {"m": v.tobytes().hex()},
    ("builtins", "dict_keys"): _view("keys"),
    ("builtins", "dict_values"): _view("values"),
    ("builtins", "dict_items"): _view("items"),
    ("builtins", "mappingproxy"): lambda v, each: {"p": [[each(k), each(x)] for k, x in v.items()]},
    ("types", "SimpleNamespace"): lambda v, each: {"N": _pairs(vars(v), each)},
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): lambda v, _: {"F": [hex(v.numerator), hex(v.denominator)]},
    ("collections", "deque"): lambda v, each: {"q": [[each(x) for x in deque.__iter__(v)], v.maxlen]},
    ("collections", "Counter"): lambda v, each: {"C": _pairs(v, each)},
    ("collections", "OrderedDict"): lambda v, each: {"O": [[each(k), each(x)] for k, x in OrderedDict.items(v)]},
    ("collections", "defaultdict"): _default_dict,
    ("uuid", "UUID"): lambda v, _: {"U": hex(v.int)},
    ("array", "array"): lambda v, each: {"A": [v.typecode, [each(x) for x in v]]},
    **{("datetime", name): _date for name in _DATES},
    **{("pathlib", name): _path for name in ("PurePath", "Path", "PosixPath", "PurePosixPath", "PureWindowsPath")},
}
MUTABLE = {("collections", name) for name in ("deque", "Counter", "OrderedDict", "defaultdict")} | {("array", "array")}
"""Those that can be changed in place."""
_FINAL = frozenset(
    ("range", "slice", "ellipsis", "NotImplementedType", "memoryview", "mappingproxy", "SimpleNamespace", "timezone")
    + ("dict_keys", "dict_values", "dict_items")
)


def _decode_date(body: Any, each: Each) -> Any:
    import datetime

    kind, *parts = body
    if kind == "zone":
        import zoneinfo

        return zoneinfo.ZoneInfo(str(parts[0]))
    if kind == "timezone":
        offset = each(parts[0])
        if type(offset) is not original(datetime, "timedelta") or type(parts[1]) is not str:
            raise ValueError("no offset")
        plain_name = datetime.timezone(offset)
        return plain_name if parts[1] == plain_name.tzname(None) else datetime.timezone(offset, parts[1])
    if kind not in _DATES:
        raise ValueError("no date")
    made: type = original(datetime, kind)
    if kind in ("date", "timedelta"):
        return made(*map(int, parts))
    *numbers, fold, zone = parts
    return made(*map(int, numbers), tzinfo=None if zone is None else each(zone), fold=int(fold))


def _decode_path(body: Any, _: Each) -> Any:
    import pathlib

    kinds = {"Posix": pathlib.PosixPath, "PurePosix": pathlib.PurePosixPath, "PureWindows": pathlib.PureWindowsPath}
    return kinds[body[0]](str(body[1]))


def _decode_fraction(body: Any, _: Each) -> Any:
    numerator, denominator = str(body[0]), str(body[1])
    if len(numerator) + len(denominator) > _MAX_DIGITS:
        raise ValueError("the fraction is too long")  # its gcd takes quadratic time
    from fractions import Fraction

    return Fraction(int(numerator, 16), int(denominator, 16))


def _decode_decimal(body: Any, _: Each) -> Any:
    from decimal import Decimal

    return Decimal(str(body))


def _decode_uuid(body: Any, _: Each) -> Any:
    import uuid

    return uuid.UUID(int=int(body, 16))


def _decode_array(body: Any, each: Each) -> Any:
    import array

    return array.array(str(body[0]), [each(x) for x in body[1]])


def _decode_view(body: Any, each: Each) -> Any:
    name, parts = body[0], [each(x) for x in body[1]]
    if name == "values":
        return dict(enumerate(parts)).values()
    table = dict(checked(parts)) if name == "items" else dict.fromkeys(checked(parts))
    return table.items() if name == "items" else table.keys()


def _decode_default_dict(body: Any, each: Each) -> Any:
    factory = body[1]
    if isinstance(factory, str):
        factory = TYPES[factory] if factory in _FACTORIES else None
    elif factory is not None:
        factory = each(factory)
    return defaultdict(factory if callable(factory) else None, _table(body[0], each))


def _table(body: Any, each: Each) -> dict[Any, Any]:
    pairs = [(each(k), each(v)) for k, v in body]
    checked(k for k, _ in pairs)
    return dict(pairs)


def _counter(body: Any, each: Each) -> Any:
    made: Counter[Any] = Counter()
    dict.update(made, _table(body, each))
    return made


DECODERS: dict[str, Callable[[Any, Each], Any]] = {
    "r": lambda b, each: range(*map(each, b)),
    "S": lambda b, each: slice(*map(each, b)),
    "E": lambda b, _: {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[b],
    "m": lambda b, _: memoryview(bytes.fromhex(b)),
    "V": _decode_view,
    "p": lambda b, each: MappingProxyType(_table(b, each)),
    "N": lambda b, each: SimpleNamespace(**_table(b, each)),
    "D": _decode_decimal,
    "F": _decode_fraction,
    "q": lambda b, each: deque((each(x) for x in b[0]), b[1]),
    "C": _counter,
    "O": lambda b, each: OrderedDict(_table(b, each)),
    "u": _decode_default_dict,
    "U": _decode_uuid,
    "A": _decode_array,
    "T": _decode_date,
    "P": _decode_path,
}

_BY_NAME = frozenset([("sqlite3", "Row")])
"""Classes that cross by their names although their instances do not."""

_MAX_EQUAL_HASHES = 64


def checked(values: Iterable[Any]) -> list[Any]:
    """Keys that do not collide. Numbers hash to themselves modulo 2**61-1, so a sender can make a million keys
    collide: quadratic time.

    Raises:
        ValueError: too many of them do.
    """
    keys = list(values)
    counts = Counter(hash(v) for v in keys)
    if counts and max(counts.values()) > _MAX_EQUAL_HASHES:
        raise ValueError("too many keys with the same hash")
    return keys


def loaded(module: str, name: str) -> Any:
    """What a standard module that is imported already calls by that name, else None. Nothing is imported for it."""
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def class_of(module: str, name: str) -> type | None:
    """One of the classes of this file, by name; its module is imported if need be."""
    if (module, name) not in _ENCODERS and (module, name) not in _BY_NAME:
        return None
    __import__(module)
    found = original(sys.modules[module], name)
    return found if isinstance(found, type) else None


def original(module: Any, name: str) -> Any:
    """What a module calls by that name, whatever tests have put in its place; None: nothing."""
    return REPLACED.get((module.__name__, name)) or getattr(module, name, None)
