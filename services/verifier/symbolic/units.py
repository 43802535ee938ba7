"""Numbers with units: 10 cm is not 10 m, and is 0.1 m. Where only one names a unit, the number counts."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from rgopd.verifier.symbolic.numbers import Plain, numeric_readings
from rgopd.verifier.symbolic.quantities import Quantity, latex_of, quantity
from rgopd.verifier.symbolic.unit_names import Unit
from rgopd.verifier.symbolic.unit_table import MONEY, SAME, Dimensions

Equal = Callable[[str, str], bool]

_CLOSE = Fraction(1, 10**6)
_KELVIN = {"celsius": (Fraction(1), Fraction(27315, 100)), "kelvin": (Fraction(1), Fraction(0)),
           "fahrenheit": (Fraction(5, 9), Fraction(27315, 100) - 32 * Fraction(5, 9))}  # fmt: skip


def same_quantity(gold: str, answer: str, equal: Equal) -> bool | None:
    """None where no unit is named on either side."""
    a, b = quantity(gold), quantity(answer)
    if a is not None and a.weak and (b is None or b.unit.dimensions is None):
        a = None
    if b is not None and b.weak and (a is None or a.unit.dimensions is None):
        b = None
    if a is None and b is None:
        return None
    if a is None or b is None or a.unit.dimensions is None or b.unit.dimensions is None:
        return equal(_scaled(a, 1) if a else gold, _scaled(b, 1) if b else answer)
    return _both_named(a, b, equal)


def _both_named(a: Quantity, b: Quantity, equal: Equal) -> bool:
    one, other = _dimensions(a.unit), _dimensions(b.unit)
    names = frozenset(name for name, _ in (*one[0], *other[0]))
    if names == {"angle", "radian"} and len(one[0]) == len(other[0]) == 1:
        texts = [
            f"\\frac{{180 ({q.number})}}{{\\pi}}" if d[0][0][0] == "radian" else q.number
            for q, d in ((a, one), (b, other))
        ]
        return equal(texts[0], texts[1])
    if one[0] != other[0] and names not in SAME:
        return _same_temperature(a, b, names)
    x, y = _number(a.number), _number(b.number)
    if one[1] != other[1] and x and y:
        left, right = x.value * one[1] * a.unit.scale, y.value * other[1] * b.unit.scale
        return abs(left - right) <= abs(left) * _CLOSE
    return equal(_scaled(a, one[1] / other[1]), _scaled(b, 1))


def _dimensions(unit: Unit) -> tuple[Dimensions, Fraction]:
    dimensions = unit.dimensions or ()
    if any(name in MONEY for name, _ in dimensions):  # 5 dollars an hour are also 5 dollars
        dimensions = tuple(d for d in dimensions if d[0] in MONEY)
    if dimensions == (("cents", 1),):
        return (("usd", 1),), unit.factor / 100
    return tuple(sorted(dimensions)), unit.factor


def _same_temperature(a: Quantity, b: Quantity, names: frozenset[str]) -> bool:
    if not names <= _KELVIN.keys():
        return False
    kelvins = []
    for number, unit in ((_number(a.number), a.unit), (_number(b.number), b.unit)):
        if number is None or unit.dimensions is None or len(unit.dimensions) != 1:
            return False
        factor, zero = _KELVIN[unit.dimensions[0][0]]
        kelvins.append(number.value * factor + zero)
    return abs(kelvins[0] - kelvins[1]) < _CLOSE


def _number(text: str) -> Plain | None:
    return next(iter(numeric_readings(text)), None)


def _scaled(quantity: Quantity, factor: Fraction | int) -> str:
    factor = Fraction(factor) * quantity.unit.scale
    if factor == 1:
        return quantity.number
    number = _number(quantity.number)
    if number is not None:
        return latex_of(number.value * factor)
    return f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({quantity.number})"
