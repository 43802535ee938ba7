"""Numerals in a named base: 101_2, 1F_{16}, 0x1F, 101 base 2, 101_{two}."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from rgopd.verifier.symbolic.text import flat

_WORDS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_NAMES = {name: n for n, name in enumerate(_WORDS.split(" "), 2)}
_NAMES |= {"binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
_SUBSCRIPT = re.compile(
    r"(-?)\(?([0-9A-Za-z]{1,200}(?:\.[0-9A-Za-z]{1,100})?)\)?\s?_\s?\{?\s?(?:base\s?)?(\d{1,2}|[a-z]{3,11})\s?\}?"
)
_SPOKEN = re.compile(
    r"(-?)([0-9A-Fa-f]{1,200})\s?,?\s?\(?(?:in\s)?(?:base[\s-]?(\d{1,2}|[a-z]{3,11})|(binary|octal|hexadecimal))\)?"
)
_LITERAL = re.compile(r"(-?)0([xXbBoO])([0-9A-Fa-f_]{1,200})")
_LETTERS = {"x": 16, "b": 2, "o": 8}


class Numeral(NamedTuple):
    """Digits (upper case, without leading zeros), the base, the value; literal: written 0x1F, as programs do."""

    digits: str
    base: int
    value: Fraction
    literal: bool = False


def numeral(text: str) -> Numeral | None:
    """None where no base is named, or the digits are none of it."""
    if "_" not in text and "0" not in text and "base" not in text and not text.endswith(("ary", "al")):
        return None
    said = flat(text).replace(",", "")
    if found := _LITERAL.fullmatch(said):
        read = _numeral(found[1], found[3].replace("_", ""), _LETTERS[found[2].lower()])
        return None if read is None else read._replace(literal=True)
    found = _SUBSCRIPT.fullmatch(said) or _SPOKEN.fullmatch(said)
    if found is None:
        return None
    name = next(filter(None, found.groups()[2:]))
    base = int(name) if name.isdigit() else _NAMES.get(name.removeprefix("base"), 0)
    # x_1 and a_2 are variables
    return _numeral(found[1], found[2], base) if 2 <= base <= 36 and not found[2].isalpha() or base == 16 else None


def _numeral(sign: str, digits: str, base: int) -> Numeral | None:
    whole, _, after = digits.upper().partition(".")
    try:
        value = Fraction(int(whole or "0", base)) + (Fraction(int(after, base), base ** len(after)) if after else 0)
    except ValueError:
        return None
    shown = sign + (whole.lstrip("0") or "0") + (f".{after}" if after else "")
    return Numeral(shown, base, -value if sign else value)


def same_numeral(gold: str, answer: str) -> bool | None:
    """Both name a base: the values decide. One does: the other has to show the same digits, its base left out as a
    unit may be; 5 is no answer to "write 5 in base 2", nor 31 to 0x1F. None where neither does."""
    a, b = numeral(gold), numeral(answer)
    if a is None and b is None:
        return None
    if a is not None and b is not None:
        return a.value == b.value
    named, other = (a, answer) if a is not None else (b, gold)
    assert named is not None
    return not named.literal and flat(other).replace(" ", "").replace(",", "").upper() == named.digits
