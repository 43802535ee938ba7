"""What the other side has to know of a class to stand in for it, and how its special methods are carried out here."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rgopd.verifier.sandbox import library


def _swapped(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, other: function(other, value)


own_parts: Callable[[Any], Any] = type.__dict__["__dict__"].__get__
"""What a class holds itself: `vars()` of a stand-in's class would ask the other side."""

_REFLECTED = "add sub mul matmul truediv floordiv mod pow lshift rshift and xor or"
COMPARISONS = frozenset(("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"))
BINARY: dict[str, Callable[[Any, Any], Any]] = {}
"""Operators by the name of their special method, the reflected and the in-place ones too: (object, other) -> result."""
for _name in _REFLECTED.split():
    _plain: Callable[[Any, Any], Any] = getattr(operator, f"__{_name}__")
    BINARY[f"__{_name}__"] = _plain
    BINARY[f"__r{_name}__"] = _swapped(_plain)
    BINARY[f"__i{_name}__"] = getattr(operator, f"__i{_name}__")
BINARY |= {"__divmod__": divmod, "__rdivmod__": _swapped(divmod)}

_BY_FUNCTION: dict[str, Callable[..., Any]] = {
    **BINARY,
    **{name: getattr(operator, name) for name in COMPARISONS},
    **{name: getattr(operator, name) for name in ("__abs__", "__neg__", "__pos__", "__invert__", "__index__")},
    **{name: getattr(operator, name) for name in ("__getitem__", "__setitem__", "__delitem__", "__contains__")},
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__bool__": bool,
    "__int__": int,
    "__float__": float,
    "__complex__": complex,
    "__str__": str,
    "__repr__": repr,
    "__format__": format,
    "__hash__": hash,
    "__bytes__": bytes,
    "__round__": round,
    "__dir__": dir,
}
_BY_METHOD = "__missing__ __enter__ __aenter__ __aexit__ __aiter__ __anext__ __await__ __length_hint__ __trunc__"
_BY_METHOD += " __floor__ __ceil__ __exit__ __call__ __fspath__"
SPECIALS = frozenset((*_BY_FUNCTION, *_BY_METHOD.split()))
_OBJECTS = frozenset(("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__str__", "__repr__"))
_OBJECTS |= {"__format__", "__dir__"}
_NO_BASES = ("builtins", "typing", "unittest.mock")
_DATA = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_KINDS = frozenset(("function", "builtin_function_or_method", "method", "code"))
_ABSTRACT = 1 << 20  # TPFLAGS_IS_ABSTRACT
_METAS = ("EnumMeta", "EnumType", "ABCMeta")
_OF_RE = (("re", "Pattern"), ("re", "Match"))
_KINDS |= {"generator", "coroutine", "async_generator", "property"}
_OF_IO = ("StringIO", "BytesIO", "TextIOWrapper", "BufferedReader", "BufferedWriter", "FileIO")


def perform(special: str, value: Any, args: list[Any]) -> Any:
    """Do what the special method's operator or function does, as Python would here."""
    if special in ("__copy__", "__deepcopy__"):
        import copy

        return (copy.copy if special == "__copy__" else copy.deepcopy)(value)
    if special in ("__exit__", "__aexit__"):
        error = args[0]
        triple = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        return getattr(type(value), special)(value, *triple)
    function = _BY_FUNCTION.get(special)
    if function is not None:
        return function(value, *args)
    if special not in SPECIALS:
        raise AttributeError(special)
    return getattr(type(value), special)(value, *args)


def data_base(kind: type) -> str:
    """The value class that a class derives from, '' for none."""
    for base in kind.__mro__:
        if base in _DATA:
            return base.__name__
        if library.knows(base):
            return library.base_of(base) or f"{base.__module__}.{base.__name__}"
    return ""


def describe(kind: type, reference: Callable[[type], Any]) -> dict[str, Any]:
    """The description of a class.

    Args:
        reference: the form in which a class crosses; used for its bases.
    """
    base, own = data_base(kind), _beyond_builtins(kind)
    described: dict[str, Any] = {
        "n": kind.__name__,
        "m": kind.__module__ if type(kind.__module__) is str else "",
        "b": [reference(b) for b in kind.__bases__ if _is_own(b)],
        "s": [name for name in sorted(SPECIALS) if _defines(own, name)],
        "f": sorted({name for c in own for name, part in own_parts(c).items() if _is_method(name, part)}),
        "meta": [name for name in sorted(SPECIALS - {"__call__"}) if _defines(_proper(type(kind)), name)],
    }
    if any("__hash__" in own_parts(c) for c in own) and getattr(kind, "__hash__", None) is None:
        described["unhashable"] = True
    if not any("__init__" in own_parts(c) for c in own):
        described["plain"] = True
    if base:
        described["d"] = base
        fields = getattr(kind, "_fields", None)
        if base == "tuple" and type(fields) is tuple:
            described["fields"] = list(fields)
    if issubclass(kind, BaseException):
        known = next(c for c in kind.__mro__ if not _is_own(c))
        described["x"] = [known.__module__, known.__qualname__, builtin_base(known)]
    if any((c.__module__, c.__name__) == ("enum", "Enum") for c in kind.__mro__):
        described["kind"] = "enum"
    ancestors = [[c.__module__, c.__qualname__] for c in kind.__mro__ if _is_of_library(c)]
    if ancestors and not issubclass(kind, BaseException):
        described["lib"] = ancestors
    if _defines(_proper(type(kind)), "__instancecheck__"):
        described["say"] = True
    abstract = getattr(kind, "__abstractmethods__", None) if kind.__flags__ & _ABSTRACT else None
    if type(abstract) is frozenset:
        described["ab"] = sorted(map(str, abstract))
    metas = {c.__name__ for c in _proper(type(kind))}
    if meta := next((name for name in _METAS if name in metas), ""):
        described["mc"] = meta
    if _is_own(type(kind)):
        described["t"] = reference(type(kind))
    if issubclass(kind, type):
        described["kind"] = "metaclass"
    if (kind.__module__ == "builtins" and kind.__name__ in _KINDS) or (kind.__module__, kind.__name__) in _OF_RE:
        described["kind"] = kind.__name__
    if kind.__module__ == "_io" and kind.__name__ in _OF_IO:
        described["kind"] = "io"
    dataclass_fields = own_parts(kind).get("__dataclass_fields__")
    if type(dataclass_fields) is dict:
        described["dc"] = list(dataclass_fields)
    return described


def builtin_base(kind: type) -> str:
    """An exception's nearest builtin class: tests say `except ValueError` of what is a program's own kind of it."""
    return next(c.__name__ for c in kind.__mro__ if c.__module__ == "builtins")


def _beyond_builtins(kind: type) -> list[type]:
    """Its bases without those that its stand-in has too."""
    same: set[type] = {type, object} if issubclass(kind, type) else {object}
    for base in kind.__mro__:
        if base in _DATA or library.knows(base) or (issubclass(base, BaseException) and not _is_own(base)):
            same.update(base.__mro__)
            break
    return [c for c in kind.__mro__ if c not in same]


def _is_own(kind: type) -> bool:
    """Made by the program or the tests, not by the interpreter or its library."""
    module = kind.__module__
    return kind is not object and not (type(module) is str and module.partition(".")[0] in sys.stdlib_module_names)


def _is_of_library(kind: type) -> bool:
    """A class of a standard module in Python, which may be derived from: not a value's, not one that only types."""
    return not (_is_own(kind) or kind.__module__ in _NO_BASES or kind in _DATA or library.knows(kind))


def _proper(meta: type) -> Sequence[type]:
    """A metaclass and its bases without `type`."""
    bases = type.mro(meta)
    return bases[: bases.index(type)]


def _defines(kinds: Sequence[type], name: str) -> bool:
    found = next((own_parts(kind)[name] for kind in kinds if name in own_parts(kind)), None)
    return found is not None and not (name in _OBJECTS and found is getattr(object, name))


def _is_method(name: str, part: Any) -> bool:
    return not name.startswith("__") and type(part).__name__ in ("function", "classmethod")
