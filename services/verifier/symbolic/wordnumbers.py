"""Numbers in English words: "one hundred and five", "two-thirds", "three and a half", "negative three"."""

from __future__ import annotations

import re
from fractions import Fraction

_NAMES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_UNITS = {word: n for n, word in enumerate(_NAMES.split())}
_TENS = {
    w: 10 * n for n, w in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PARTS |= {f"{word}s": n for word, n in _PARTS.items() if word not in ("half", "halves")}
_WORDS = frozenset(
    {*_UNITS, *_TENS, *SCALES, *_PARTS, "hundred", "a", "an", "dozen", "negative", "minus", "and", "point"}
)
_TOKENS = re.compile(r"[a-z]{1,12}(?:[\s-]{1,3}[a-z]{1,12}){0,24}")


def number_in_words(text: str) -> Fraction | None:
    """The value of a text that is nothing but a number in words; None for anything else."""
    text = text.strip().lower()
    if not _TOKENS.fullmatch(text):
        return None
    words = re.split(r"[\s-]+", text)
    return _value(words) if all(word in _WORDS for word in words) else None


def leading(text: str) -> tuple[Fraction, str] | None:
    """The number in words that a text begins with, and the rest: "five apples" -> (5, "apples")."""
    words = text.strip().split()
    for size in range(min(len(words), 8), 0, -1):
        head = [w for word in words[:size] for w in word.lower().split("-")]
        if head[-1] not in ("a", "an", "and") and all(w in _WORDS for w in head):
            value = _value(head)
            return None if value is None else (value, " ".join(words[size:]))
    return None


def _value(words: list[str]) -> Fraction | None:
    if words[0] in ("negative", "minus"):
        value = _value(words[1:]) if len(words) > 1 else None
        return None if value is None or words[1] in ("negative", "minus") else -value
    if "point" in words:
        at = words.index("point")
        return _decimal(words[:at], words[at + 1 :])
    if words[-1] in _PARTS:
        return _fraction(words)
    integer = _integer(words)
    return None if integer is None else Fraction(integer)


def _decimal(whole: list[str], digits: list[str]) -> Fraction | None:
    value = _integer(whole) if whole else 0
    if value is None or not digits or not all(_UNITS.get(d, 99) < 10 for d in digits):
        return None
    return value + Fraction(int("".join(str(_UNITS[d]) for d in digits)), 10 ** len(digits))


def _fraction(words: list[str]) -> Fraction | None:
    part = Fraction(1, _PARTS[words[-1]])
    before = words[:-1]
    if not before:
        return part if words[-1] == "half" else None  # "third" alone is an ordinal
    if "and" in before:
        at = len(before) - 1 - before[::-1].index("and")
        whole, above = _integer(before[:at]), _above(before[at + 1 :])
        return None if whole is None or above is None else whole + above * part
    above = _above(before)
    return None if above is None else above * part


def _above(words: list[str]) -> int | None:
    return 1 if words in (["a"], ["an"]) else _integer(words)


def _integer(words: list[str]) -> int | None:
    total = group = 0
    last = 10**15
    previous = ""
    for word in words:
        if word in ("a", "an"):
            if previous or len(words) == 1:
                return None
            group = 1
        elif word == "and":
            if previous not in ("hundred", *SCALES):
                return None
        elif word in _UNITS:
            if previous in _UNITS or (previous in _TENS and not 0 < _UNITS[word] < 10):
                return None
            group += _UNITS[word]
        elif word in _TENS:
            if previous in _UNITS or previous in _TENS:
                return None
            group += _TENS[word]
        elif word in ("hundred", "dozen"):
            if not 0 < group < 100 or previous in ("and", "hundred", "dozen"):
                if not (word == "hundred" and not previous) and not (word == "dozen" and not previous):
                    return None
                group = 1
            group *= 100 if word == "hundred" else 12
        elif word in SCALES:
            if SCALES[word] >= last or not (group or not previous):
                return None
            total, group, last = total + (group or 1) * SCALES[word], 0, SCALES[word]
        else:
            return None
        previous = word
    return None if previous in ("a", "an", "and", "") else total + group
