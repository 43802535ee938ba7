"""Type hints as plain data: `list[int]`, `Optional[str]`, `Callable[[int], bool]`, each rebuilt from what it names.

What a hint names is classes, other hints and texts; a sender chooses which, and nothing is executed for it.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable
from typing import Any

Each = Callable[[Any], Any]

_KINDS = (
    *(("typing", f"_{name}GenericAlias") for name in ("", "Callable", "Union", "Literal", "Annotated")),
    *(("typing", name) for name in ("_SpecialForm", "_AnyMeta", "_SpecialGenericAlias", "_TupleType", "_CallableType")),
    ("types", "GenericAlias"),
    ("types", "UnionType"),
    ("collections.abc", "_CallableGenericAlias"),
    ("typing", "ForwardRef"),
)
_HINTS = frozenset(_KINDS)
_MODULES = ("typing", "builtins", "collections", "collections.abc", "contextlib", "re")
_MOST = 100


def knows(value: Any) -> bool:
    """Is this a hint of the library's? `Stack[int]` of a program's generic class is more: it can be called."""
    kind = type(value)
    if (kind.__module__, kind.__name__) not in _HINTS:
        return False
    origin = getattr(value, "__origin__", None)
    return origin is None or kind.__module__ != "typing" or origin.__module__ in _MODULES


def encode(value: Any, each: Each) -> dict[str, Any]:
    """The plain form of a hint."""
    if type(value) is types.UnionType:
        return {"ty": ["|", [each(x) for x in value.__args__]]}
    if hasattr(value, "__forward_arg__"):
        return {"ty": ["ref", [str(value.__forward_arg__)]]}
    args = getattr(value, "__args__", None)
    module = type(value).__module__
    if args is None:  # Any, List without its items
        return {"ty": ["typing", str(getattr(value, "_name", None) or value.__name__), None]}
    if module == "typing":
        name = value._name or getattr(value.__origin__, "_name", None) or value.__origin__.__name__
        return {"ty": ["typing", str(name), [each(x) for x in args]]}
    return {"ty": ["of", [each(value.__origin__)], [each(x) for x in args]]}


def decode(body: Any, each: Each) -> Any:
    """The hint. Raises ValueError or TypeError for what is none."""
    kind, first, *rest = body
    if kind == "|":
        return functools.reduce(operator.or_, [each(x) for x in first[:_MOST]])
    import typing

    if kind == "ref":
        return typing.ForwardRef(str(first[0]))
    args = None if rest[0] is None else tuple([each(x) for x in rest[0][:_MOST]])
    if kind == "of":
        origin = each(first[0])
        if not isinstance(origin, type) or args is None:
            raise ValueError("no generic class")
        return types.GenericAlias(origin, args)
    if first not in typing.__all__ or not (first[:1].isupper()):
        raise ValueError("no hint")
    form = getattr(typing, first)
    if args is None:
        return form
    if first == "Callable":
        return form[args[0] if args[0] is ... else list(args[:-1]), args[-1]]
    if first == "Optional":
        args = tuple(x for x in args if x is not type(None))
    return form[args if len(args) != 1 else args[0]]
