"""Numbers with units: 10 cm is not 10 m, and is 0.1 m."""

from __future__ import annotations

import re
from fractions import Fraction

from rgopd.verifier.symbolic.text import bare

_UNITS: dict[str, tuple[str, Fraction]] = {}


def _define(dimension: str, **factors: str) -> None:
    for names, factor in factors.items():
        for name in names.split("__"):
            _UNITS[name] = (dimension, Fraction(factor))


_define(
    "length",
    mm__millimeter__millimetre="1/1000",
    cm__centimeter__centimetre="1/100",
    dm="1/10",
    m__meter__metre="1",
    km__kilometer__kilometre="1000",
    inch__inches="254/10000",
    ft__foot__feet="3048/10000",
    yd__yard="9144/10000",
    mi__mile="1609344/1000",
)
_define("mass", mg="1/1000000", g__gram="1/1000", kg__kilogram="1", lb__lbs__pound="45359237/100000000")
_define("time", ms="1/1000", s__sec__second="1", min__minute="60", h__hr__hour="3600", day="86400", week="604800")
_define("volume", ml__milliliter="1/1000", l__liter__litre="1", gallon="3785411784/1000000000")
_define("angle", rad__radian="1")
_define("money", dollar="1", cent="1/100")

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:/\d+)?|[+-]?\\[dt]?frac\{\d+\}\{\d+\})\s*(?:\\[ ,;]|~)*\s*"
    r"(?:\\(?:text|mathrm|textrm|textup|mbox)\s*\{)?\s*(?:\\ )?(?P<unit>[A-Za-z]+)\.?\s*\}?"
    r"(?:\s*\^\{?(?P<power>[23])\}?)?"
)


def quantity(latex: str) -> tuple[str, Fraction] | None:
    """(dimension, amount in base units), or None when it is not a number with a known unit."""
    match = _QUANTITY.fullmatch(bare(latex))
    if match is None or len(match["number"]) > 50:
        return None
    unit = _lookup(match["unit"])
    number = _number(match["number"])
    if unit is None or number is None:
        return None
    power = int(match["power"] or 1)
    return f"{unit[0]}^{power}", number * unit[1] ** power


def same_quantity(reference: str, answer: str) -> bool | None:
    """True or False where both carry a known unit, else None: nothing is said."""
    a, b = quantity(reference), quantity(answer)
    if a is None or b is None:
        return None
    return a[0] == b[0] and abs(a[1] - b[1]) <= abs(a[1]) * Fraction(1, 10**6)


def _lookup(name: str) -> tuple[str, Fraction] | None:
    low = name if name in _UNITS else name.lower()
    return _UNITS.get(low) or _UNITS.get(low.removesuffix("s")) or _UNITS.get(low.removesuffix("es"))


def _number(text: str) -> Fraction | None:
    fraction = re.fullmatch(r"([+-]?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", text)
    try:
        if fraction:
            return Fraction(int(fraction[1] + fraction[2]), int(fraction[3]))
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None
