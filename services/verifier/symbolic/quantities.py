"""Reading a number with its unit: "10 \\text{ cm}", "\\$12", "3:30 h", "1 hour 30 minutes", "five apples"."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from rgopd.verifier.symbolic.text import undelimited
from rgopd.verifier.symbolic.unit_names import Unit, unit
from rgopd.verifier.symbolic.unit_table import lookup
from rgopd.verifier.symbolic.wordnumbers import SCALES, leading

_WORDY = r"\\(?:text|textrm|mbox|textup|textit|textbf|mathrm|textsf|mathit|rm)"
_TOKENS = re.compile(
    rf"{_WORDY}\s?\{{|\^\s?\{{?\s?\\circ|\\degree|\\[A-Za-z]+|\\.|[A-Za-z]+|[\u4e00-\u9fff]+|[°\"']|\s+|.", re.DOTALL
)
_UNWRAP = re.compile(rf"{_WORDY}\s?\{{([^{{}}]{{0,200}})\}}")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{\s?([^{}]{1,30})\s?\}\s?\{\s?([^{}]{1,30})\s?\}$")
_DEGREE = re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree")
_DEGREES_OF = re.compile(r"(?i)\bdeg(?:ree)?s?\.?\s{1,3}(celsius|fahrenheit)")
_SPACES = re.compile(r"\\[,;:! ]|~|\\q?quad(?![A-Za-z])")
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3}")
_EXPONENT = re.compile(r"\^\s?\{?\s?-?\d\s?\}?")
_CURRENCY = re.compile(
    r"([-+]?)\s?(?:\\text\{)?\s?(US\\?\$|A\\?\$|C\\?\$|\\?\$|\\textdollar|\\pounds|\\euro|\\yen|[€£¥₹]|USD|EUR|GBP|INR|CNY|JPY|"
    r"RMB|Rs\.?)\s?\}?\s?(?=[-+\d.\\(])"
)
_SIGN = {
    "\\pounds": "£",
    "\\euro": "€",
    "\\yen": "¥",
    "\\textdollar": "$",
    "Rs.": "Rs",
    "US$": "$",
    "A$": "$",
    "C$": "$",
}
_PIECE = re.compile(r"\s?(?:and\s|,\s?)?(\d{1,12}(?:\.\d{1,12})?)\s?([A-Za-z°'\"]{1,12})\.?")


class Quantity(NamedTuple):
    """The number's text and its unit; `weak`: a lone letter right behind the number, which may be a variable."""

    number: str
    unit: Unit
    weak: bool


@lru_cache(maxsize=256)
def quantity(latex: str) -> Quantity | None:
    """A number (any formula) and its unit; None without a unit. Several units of a kind are added up."""
    text = undelimited(latex)
    if len(text) > 300:
        return None
    money = _CURRENCY.match(text)
    sign = money[2].replace("\\$", "$") if money else ""
    sign = _SIGN.get(sign, sign)
    if money:
        text = money[1] + text[money.end() :].rstrip(".")
        text = text[:-1] if text.endswith("}") and text.count("{") < text.count("}") else text
    elif text.startswith("\\text"):
        text = _UNWRAP.sub(r"\1", text)
    at = _unit_starts(text)
    if at is None:
        named = unit(sign) if sign else None
        return Quantity(text, named, weak=False) if named else _in_words(text)
    return _parted(text, at, sign)


def _parted(text: str, at: int, sign: str) -> Quantity | None:
    number, name = text[:at].strip(), _spelt(text[at:])
    if not number or _PROSE.search(number):
        return None
    if any(c.isdigit() for c in _EXPONENT.sub("", name)):
        return _sum(text)
    found = unit(name, noun=not text[at:].startswith(("\\mathrm", "\\rm", "\\mathit")), currency=sign)
    if found is None:
        return None
    letter = len(name.strip()) == 1 and name.isascii() and text[at].isalpha()
    return Quantity(number.rstrip("\\").strip(), found, letter and not text[:at].endswith((" ", ",", ";", "~")))


def _in_words(text: str) -> Quantity | None:
    found = leading(text) if text[:1].isalpha() and len(text) < 200 else None
    named = unit(found[1]) if found is not None and found[1] else None
    return Quantity(str(found[0]), named, weak=False) if found is not None and named is not None else None


def _unit_starts(text: str) -> int | None:
    """Where the unit begins: the first word in no braces that is no formula's."""
    if (over := _FRACTION.search(text)) and over.start() and all(lookup(_spelt(part)) for part in over.groups()):
        return over.start()
    depth, before = 0, ""
    for token in _TOKENS.finditer(text):
        part = token[0]
        wordy = part.startswith("\\") and part.endswith("{") and len(part) > 2
        if depth == 0 and (wordy or _is_mark(part, before) or _is_word(part, before)):
            return token.start()
        if wordy or part in ("{", "(", "[", "\\{"):
            depth += 1
        elif part in ("}", ")", "]", "\\}"):
            depth -= 1
        before = before + " " if part.isspace() else part
    return None


def _is_mark(part: str, before: str) -> bool:
    if part in ("°", "\\degree") or (part.startswith("^") and "circ" in part):
        return True
    return part in ("'", '"', "\\$", "$", "€", "£", "¢") and bool(before.strip())


def _is_word(part: str, before: str) -> bool:
    if not part[0].isalpha() or not before.strip(" ="):
        return False
    last = before.rstrip()[-1:]
    if not (last.isdigit() or last in ("}", ")", ".", ";", ",", "~") or before.startswith("\\")):
        return False
    if not part.isascii():
        return True
    apart = before[-1:].isspace() or before in ("\\,", "\\;", "\\ ", "~", "\\:")
    if lookup(part) is not None or part.lower() in SCALES:
        return True
    return apart and len(part) >= 3


def _spelt(latex: str) -> str:
    text = _DEGREE.sub(" ° ", latex)
    if over := _FRACTION.search(text):
        text = text[: over.start()] + f"{over[1]}/{over[2]}"
    text = _DEGREES_OF.sub(r"\1", _UNWRAP.sub(r"\1", text))
    text = text.replace("\\cdot", "*").replace("\\$", "$").replace("\\%", "%")
    return re.sub(r"°\s{0,3}([CF])(?![A-Za-z])", r"°\1", " ".join(_SPACES.sub(" ", text).split())).strip(" .")


def _sum(latex: str) -> Quantity | None:
    """1 hour 30 minutes, 5 ft 6 in, 22° 30': the total in base units."""
    text, total, dimensions, at = _spelt(latex), Fraction(0), None, 0
    minute, second = ("arcminute", "arcsecond") if "°" in text else ("ft", "in")
    while at < len(text):
        piece = _PIECE.match(text, at)
        found = lookup(piece[2].replace("'", minute).replace('"', second)) if piece else None
        if piece is None or found is None or dimensions not in (None, found[0]):
            return None
        dimensions, at = found[0], piece.end()
        total += Fraction(piece[1]) * found[1]
    return Quantity(latex_of(total), Unit(dimensions, Fraction(1), 1), weak=False)


def latex_of(value: Fraction) -> str:
    """An integer, or \\frac."""
    return str(value) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
