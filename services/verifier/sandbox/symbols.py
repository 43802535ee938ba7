"""sympy's expressions as plain data: a class's name and its arguments. Nothing is evaluated, and no text is parsed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Each = Callable[[Any], Any]

_CONSTANTS = ("pi", "E", "I", "oo", "zoo", "nan", "true", "false", "EmptySet", "Reals", "Integers", "GoldenRatio")
_UNEVALUATED: tuple[str, ...] = (
    "Add",
    "Mul",
    "Pow",
    "Equality",
    "Unequality",
    "StrictLessThan",
    "LessThan",
    "StrictGreaterThan",
)
_UNEVALUATED += ("GreaterThan", "Derivative", "Integral")
_SETS = ("Tuple", "FiniteSet", "Interval", "Union", "Intersection", "Derivative", "Integral", "And", "Or", "Not")
_RELATIONS = {
    "Equality": "Eq",
    "Unequality": "Ne",
    "StrictLessThan": "Lt",
    "LessThan": "Le",
    "StrictGreaterThan": "Gt",
    "GreaterThan": "Ge",
}
_MATRICES = {"MutableDenseMatrix": "Matrix", "ImmutableDenseMatrix": "ImmutableMatrix"}
_MOST_DIGITS = 20_000


def is_symbolic(kind: type) -> bool:
    """A class of expressions or of matrices."""
    basic = getattr(sys.modules.get("sympy"), "Basic", None)
    return basic is not None and (issubclass(kind, basic) or kind.__name__ in _MATRICES)


def encode(value: Any, each: Each) -> list[Any]:
    """[name, arguments]. Raises ValueError for what has no plain form."""
    sympy = sys.modules["sympy"]
    name = type(value).__name__
    constant = next((c for c in _CONSTANTS if value is getattr(sympy, c)), None)
    if constant is not None:
        return ["constant", constant]
    if value.is_Matrix:
        return ["matrix", name, list(value.shape), [encode(x, each) for x in value.flat()]]
    if value.is_Rational:
        return ["number", hex(value.p), hex(value.q)]
    if value.is_Float:
        return ["float", str(value), int(value._prec)]
    if value.is_Symbol:
        return ["symbol", value.name, {str(k): v for k, v in value._assumptions_orig.items()}]
    if not value.args or (name not in (*_UNEVALUATED, *_SETS) and not _is_function(sympy, name)):
        raise ValueError(f"a {name} has no plain form")
    return [name, *(encode(part, each) for part in value.args)]


def decode(body: Any, each: Each) -> Any:
    """The expression. Raises ValueError for what is none."""
    sympy: Any = __import__("sympy")
    name, *parts = body
    if name == "constant":
        return getattr(sympy, parts[0] if parts[0] in _CONSTANTS else "nan")
    if name == "number":
        if len(parts[0]) + len(parts[1]) > _MOST_DIGITS:
            raise ValueError("the number is too long")
        return sympy.Rational(int(parts[0], 16), int(parts[1], 16))
    if name == "float":
        return sympy.Float(
            str(float(parts[0]) if len(parts[0]) > 400 else parts[0]), precision=min(int(parts[1]), 4000)
        )
    if name == "symbol":
        return sympy.Symbol(str(parts[0])[:200], **{str(k): bool(v) for k, v in parts[1].items()})
    if name == "matrix":
        rows, columns = (int(n) for n in parts[1])
        cells = [decode(x, each) for x in parts[2]]
        if rows * columns != len(cells):
            raise ValueError("a matrix of another size")
        return getattr(sympy, _MATRICES[parts[0]])(rows, columns, cells)
    arguments = [decode(part, each) for part in parts]
    if name in _UNEVALUATED or _is_function(sympy, name):
        return getattr(sympy, _RELATIONS.get(name, name))(*arguments, evaluate=False)
    if name not in _SETS:
        raise ValueError("no expression")
    return getattr(sympy, name)(*arguments)


def _is_function(sympy: Any, name: str) -> bool:
    found = getattr(sympy, name, None)
    return isinstance(found, type) and issubclass(found, sympy.Function) and found.__name__ == name
