"""Deciding equality of constants: exactly where both are rational, else by relative error. math-verify's own test
is absolute (chop), so that it calls 1/2^99 and 1/2^98, or 1/2004! and 1/2006!, equal."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from sympy import Basic, E, Float, I, Integer, MatrixBase, nan, oo, zoo
from sympy.core.relational import Relational
from sympy.sets.sets import Set

from rgopd.verifier.symbolic import spelling
from rgopd.verifier.symbolic.text import bare, flat

_DIGITS = 30
_EXACT = 1e-15
_DECIMAL = 1e-6
_MAX_BITS = 100_000


_PLAIN = re.compile(
    r"(?P<sign>[-+]?)\s{0,3}(?:(?P<whole>\d{1,400})?\s{0,3}\\frac\s{0,2}(?:\{\s?(?P<above>-?\d{1,400})\s?\}|(?P<a>\d))"
    r"\s{0,2}(?:\{\s?(?P<below>\d{1,400})\s?\}|(?P<b>\d))"
    r"|(?P<over>\d{1,400})\s?/\s?(?P<under>\d{1,400})"
    r"|(?P<decimal>\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})"
    r"(?:\s{0,3}(?:\\times|\\cdot|\*)\s{0,3}10\s?\^\s?(?:\{\s?(?P<power>[-+]?\d{1,4})\s?\}|(?P<digit>\d)))?)"
    r"\s{0,3}(?P<percent>\\?%)?"
)


class Plain(NamedTuple):
    """A number that needs no parser: its value, whether it was written with a point, and whether as a percentage."""

    value: Fraction
    decimal: bool
    percent: bool


def plain_number(text: str) -> Plain | None:
    """An integer, decimal, fraction, mixed number, power of ten or percentage; None for anything else."""
    found = _PLAIN.fullmatch(text.strip())
    if found is None:
        return None
    part = found.groupdict()
    below = int(part["below"] or part["b"] or part["under"] or 1)
    if not below:
        return None
    if part["decimal"]:
        value = Fraction(part["decimal"]) * Fraction(10) ** int(part["power"] or part["digit"] or 0)
    elif part["over"]:
        value = Fraction(int(part["over"]), below)
    else:
        above = int(part["above"] or part["a"])
        if part["whole"] and above < 0:
            return None
        value = int(part["whole"] or 0) + Fraction(above, below)
    decimal = "." in (part["decimal"] or "")
    return Plain(-value if part["sign"] == "-" else value, decimal, part["percent"] is not None)


_PERCENT = re.compile(r"\s?per\s?cent(?:age)?$")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:\s|\\,|\\;|\\!|\\ |~|\{,\}\s?|,\\!\s?|,)\d{3})+(?:\.\d{0,60})?")
_LAKHS = re.compile(r"[-+]?\d{1,2}(?:,\d{2}){1,8},\d{3}(?:\.\d{0,60})?")
_EUROPEAN = re.compile(
    r"[-+]?\d{1,3}(?:\.\d{3}){2,20}(?:\{?,\}?\d{1,60})?|[-+]?\d{1,3}(?:[.\s]\d{3}){1,20}\{?,\}?\d{1,60}"
)
_COMMA = re.compile(r"([-+]?\d{1,60})\{?,\}?(\d{1,60})")


@lru_cache(maxsize=512)
def numeric_readings(latex: str) -> list[Plain]:
    """What a text is as a number alone, in every convention that allows it: 1,234 is 1234; 0,5 is a half; 1.234,5 is
    1234.5. Empty for anything else."""
    text = _PERCENT.sub("%", flat(latex)) if "cent" in latex else bare(latex)
    percent = text.endswith("%")
    body = text.rstrip("%").rstrip("\\ ") if percent else text
    spellings = []
    if _THOUSANDS.fullmatch(body) and not re.match(r"[-+]?0", body):
        spellings = [re.sub(r"[^\d.+-]", "", body)]
    elif _LAKHS.fullmatch(body):
        spellings = [body.replace(",", "")]
    elif _EUROPEAN.fullmatch(body):
        spellings = [re.sub(r"[.\s{}]", "", body).replace(",", ".")]
    elif found := _COMMA.fullmatch(body):
        spellings = [f"{found[1]}.{found[2]}"]
    else:
        spellings = [spelling.joined(spelling.rewritten(spelling.styled(body))).strip()]
    readings = [plain_number(s + ("%" if percent else "")) for s in spellings]
    return [reading for reading in readings if reading is not None]


def same_plain(gold: Plain, answer: Plain, tolerance: float | None) -> bool:
    """As `same_number`, without a parser. 9% is 9 and 0.09, where the other has no sign of its own."""
    pairs = [(gold.value, answer.value)]
    if gold.percent != answer.percent:
        pairs.append((gold.value / 100, answer.value) if gold.percent else (gold.value, answer.value / 100))
    return any(_close(g, a, gold.decimal or answer.decimal, tolerance) for g, a in pairs)


def _close(gold: Fraction, answer: Fraction, decimal: bool, tolerance: float | None) -> bool:
    apart = abs(gold - answer)
    if tolerance is not None:
        return apart <= Fraction(tolerance) * max(Fraction(1), abs(gold))
    if not decimal or not apart:
        return not apart
    size = abs(gold) if abs(gold) > abs(answer) else abs(answer)
    return apart < Fraction(1, 10**6) and (size > Fraction(1, 1000) or apart <= size / 1000)


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
