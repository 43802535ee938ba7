"""Taking a unit's name apart: "km/h", "square centimeters", "m s^{-2}", "million dollars", "apples"."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from rgopd.verifier.symbolic.unit_table import MONEY, Dimensions, lookup
from rgopd.verifier.symbolic.wordnumbers import SCALES

_PART = re.compile(
    r"([A-Za-z\u4e00-\u9fff°$€£¥₹¢][A-Za-z\u4e00-\u9fff°$€£¥₹¢-]{0,30})\.?\s?(?:\^\s?\{?\s?(-?\d)\s?\}?)?\s{0,3}"
)
_PER = re.compile(r"\bper\b|每")
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_AFTER = {"squared": 2, "cubed": 3}
_WORDS = """and or to by if when where mod sin cos tan cot sec csc log ln exp max min gcd lcm arcsin arccos arctan sinh
cosh tanh sqrt pi is are not base am pm percent plus minus times half divided one two three four five six seven eight
nine ten lim inf sup det"""
_NEVER = frozenset(_WORDS.split())
_NOT_FIRST = frozenset(["for", "with", "over", "than", "more", "less", "of"])


class Unit(NamedTuple):
    """Dimensions with powers, the factor to base units, and that of a word like million. `dimensions` is None for a
    noun that is no unit (apples): it is the same as any."""

    dimensions: Dimensions | None
    factor: Fraction
    scale: int


@lru_cache(maxsize=1024)
def unit(name: str, *, noun: bool = True, currency: str = "") -> Unit | None:
    """None when it is not one. `noun`: a word that is no unit will do; `currency`: a sign before the number."""
    reader = _Reader(currency)
    text = _PER.sub("/", name).strip()
    at = 0
    while at < len(text):
        if text[at] in "/*·- ":
            reader.side = -1 if text[at] == "/" else reader.side
            at += 1
            continue
        part = _PART.match(text, at)
        if part is None:
            return None
        at = part.end()
        if reader.take(part[1], part[2]):
            continue
        low = part[1].lower().removesuffix("s")
        if low in _NEVER or (
            reader.empty and not (noun and (len(low) > 2 or not low.isascii()) and low not in _NOT_FIRST)
        ):
            return None
        break  # five years old, ten centimetres of wire
    return reader.unit()


class _Reader:
    """What has been read so far."""

    def __init__(self, currency: str) -> None:
        self.dimensions: dict[str, int] = {}
        self.factor, self.scale = Fraction(1), 1
        self.side, self.power = 1, 1
        self.last: tuple[Dimensions, Fraction, int] | None = None
        self.nouns = False
        if found := lookup(currency) if currency else None:
            self.dimensions = dict(found[0])

    @property
    def empty(self) -> bool:
        """Nothing was read that is a unit or a scale."""
        return not self.dimensions and self.scale == 1

    def take(self, word: str, exponent: str | None) -> bool:
        """A word of the name; False where it is none."""
        low = word.lower()
        if low.removesuffix("s") in SCALES and not self.dimensions.keys() - MONEY:
            self.scale *= SCALES[low.removesuffix("s")]
        elif low in _BEFORE or word in _BEFORE:
            self.power = _BEFORE.get(low) or _BEFORE[word]
        elif low in _AFTER and self.last is not None:
            self._times(*self.last[:2], self.last[2] * (_AFTER[low] - 1))
        elif (found := lookup(word)) is not None:
            times = self.side * int(exponent or self.power)
            self._times(*found, times)
            self.last, self.side, self.power = (*found, times), 1, 1
        else:
            return False
        return True

    def _times(self, dimensions: Dimensions, factor: Fraction, times: int) -> None:
        self.factor *= factor**times
        for name, exponent in dimensions:
            self.dimensions[name] = self.dimensions.get(name, 0) + exponent * times

    def unit(self) -> Unit:
        """All of it."""
        kept = tuple(sorted((name, power) for name, power in self.dimensions.items() if power))
        return Unit(kept or None, self.factor, self.scale)
