"""Deciding equality of constants: exactly where both are rational, else by relative error. math-verify's own test
is absolute (chop), so that it calls 1/2^99 and 1/2^98, or 1/2004! and 1/2006!, equal."""

from __future__ import annotations

from typing import Any

from sympy import Basic, E, Float, I, Integer, MatrixBase, nan, oo, zoo
from sympy.core.relational import Relational
from sympy.sets.sets import Set

_DIGITS = 30
_EXACT = 1e-15
_DECIMAL = 1e-6
_MAX_BITS = 100_000


def same_number(gold: Any, answer: Any, tolerance: float | None) -> bool | None:
    """True or False for two constants; None when one is not a constant or cannot be evaluated."""
    a, b = _constant(gold), _constant(answer)
    if a is None or b is None:
        return None
    if tolerance is None and _rational(a) and _rational(b):
        return bool(a == b)
    x, y = a.evalf(_DIGITS), b.evalf(_DIGITS)
    if x.has(zoo, nan) or y.has(zoo, nan):
        return False  # 12:00 reads as a division by zero, and so does 1:00
    if not (_finite(x) and _finite(y)):
        return True if x == y else None
    decimal = a.has(Float) or b.has(Float)
    allowed = tolerance if tolerance is not None else (_DECIMAL if decimal else _EXACT)
    size = max(abs(x), abs(y))
    if tolerance is not None:
        return bool(abs(x - y) <= allowed * max(1, abs(x)))
    if decimal:  # a decimal is right when it is right to six places; a small one also to three digits of its own
        return bool(abs(x - y) < allowed and (size > 1e-3 or abs(x - y) <= 1e-3 * size))
    return bool(abs(x - y) <= allowed * size) if size else True


def _constant(value: Any) -> Any:
    """The value as an evaluated constant expression, with e and i read as numbers; None for anything else."""
    if not isinstance(value, Basic) or isinstance(value, (MatrixBase, Set, Relational)):
        return None
    if not getattr(value, "is_commutative", True) or not hasattr(value, "evalf"):
        return None
    constants = {s: (E if s.name == "e" else I) for s in value.free_symbols if getattr(s, "name", "") in ("e", "i")}
    if len(constants) < len(value.free_symbols) or (constants and value.is_Symbol):
        return None
    value = value.subs(constants) if constants else value
    if _bits(value) > _MAX_BITS:
        return value  # evalf copes; doit() would write the number out
    done = value.doit()
    return done if isinstance(done, Basic) and hasattr(done, "evalf") else None


def _rational(value: Any) -> bool:
    return bool(value.is_Rational)


def _finite(value: Any) -> bool:
    return bool(value.is_number) and not value.has(oo, -oo, zoo, nan)


def _bits(value: Any) -> float:
    """A bound on the size of the integer powers and factorials in an expression, in bits."""
    largest = 0.0
    stack = [value]
    while stack:
        node = stack.pop()
        stack.extend(getattr(node, "args", ()))
        if getattr(node, "is_Pow", False) and isinstance(node.args[1], Integer) and isinstance(node.args[0], Integer):
            largest = max(largest, abs(int(node.args[1])) * float(int(node.args[0]).bit_length()))
        elif type(node).__name__ == "factorial" and isinstance(node.args[0], Integer):
            largest = max(largest, abs(int(node.args[0])) * 20.0)
    return largest
