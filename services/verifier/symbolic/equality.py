"""Are two answers equal? What can be told without a parser comes first; math-verify decides the rest."""

from __future__ import annotations

import re
from fractions import Fraction

from rgopd.verifier.symbolic import bases, claims, clock, figures, lists, notation
from rgopd.verifier.symbolic import text as tidy
from rgopd.verifier.symbolic.numbers import Plain, numeric_readings, same_plain
from rgopd.verifier.symbolic.options import same_option
from rgopd.verifier.symbolic.parsing import NothingFound, Unreadable, expression, same_symbols
from rgopd.verifier.symbolic.quantities import latex_of
from rgopd.verifier.symbolic.ratios import same_ratio
from rgopd.verifier.symbolic.scripts import chinese_number
from rgopd.verifier.symbolic.sets import same_set
from rgopd.verifier.symbolic.units import same_quantity
from rgopd.verifier.symbolic.wordnumbers import number_in_words

_MAX_DEPTH = 6
_CUT = 5e-3
_SETLIKE = re.compile(
    r"[<>∈]|real|\\(?:begin|leq?|geq?|leqslant|geqslant|neq?|cup|cap|in|mid|mathbb|setminus|infty)(?![A-Za-z])"
)

_OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])")


class Judge:
    """Compares texts under one tolerance."""

    def __init__(self, tolerance: float | None) -> None:
        self.tolerance = tolerance
        self.depth = 0

    def equal(self, gold: str, answer: str) -> bool:
        """Whether an answer says what the reference says.

        Raises:
            Unreadable, NothingFound: from the parser.
        """
        if self.depth >= _MAX_DEPTH:
            return False
        if not self.depth:
            gold, answer = notation.paired(notation.written(gold), notation.written(answer))
            if claims.denies(gold, answer) or not self._holds(gold, answer):
                return False
        self.depth += 1
        try:
            certain = self.certain(gold, answer)
            return certain if certain is not None else same_symbols(gold, answer, None, self.tolerance)
        finally:
            self.depth -= 1

    def _holds(self, gold: str, answer: str) -> bool:
        """Are the constants equal that an answer calls so? Decimals may have been cut."""
        for one, other in claims.equations(gold, answer):
            try:
                if not Judge(_CUT).equal(one, other):
                    return False
            except (Unreadable, NothingFound):
                continue
        return True

    def certain(self, gold: str, answer: str) -> bool | None:
        """What can be told without math-verify; None when nothing can."""
        if tidy.canonical(gold) == tidy.canonical(answer):
            return True
        numbers = _numbers(gold), _numbers(answer)
        if numbers[0] and numbers[1]:
            if any(same_plain(g, a, self.tolerance) for g in numbers[0] for a in numbers[1]):
                return True
            if "," not in gold + answer:
                return False
        if tidy.is_empty_set(gold) or tidy.is_empty_set(answer):
            return tidy.is_empty_set(gold) and tidy.is_empty_set(answer)
        for same in (same_option, figures.same_figure, _same_words, self._same_moment, self._same_number_words):
            told = same(gold, answer, self.equal)
            if told is not None:
                return told
        return self._by_shape(gold, answer)

    def _by_shape(self, gold: str, answer: str) -> bool | None:
        told = bases.same_numeral(gold, answer)
        if told is None:
            told = self._same_lists(gold, answer)
        if told is None:
            told = same_set(gold, answer, expression)
        if told is None:
            told = same_quantity(gold, answer, self.equal)
        return same_ratio(gold, answer, self.equal) if told is None else told

    def _same_lists(self, gold: str, answer: str) -> bool | None:
        a, b = lists.several(gold), lists.several(answer)
        if a is not None and b is not None:
            return lists.same_several(a, b, self.equal)
        if a is None and b is None:
            return None
        several, text, other = (a, gold, answer) if a is not None else (b, answer, gold)
        assert several is not None
        if _OR.search(text) and all(self.equal(other, item) for item in several.items):
            return True  # one value in two spellings
        if several.kind == "list" and numeric_readings(text):
            return None  # 1,000 is one number too
        if matrix := lists.matrix_of(several):
            return self.equal(other, matrix)
        return None if _SETLIKE.search(other) else False

    @staticmethod
    def _same_moment(gold: str, answer: str, equal: object) -> bool | None:
        times = clock.time_of_day(gold), clock.time_of_day(answer)
        if times[0] is not None and times[1] is not None:
            return clock.same_time(times[0], times[1])
        if any(time is not None and time.half == "named" for time in times):
            return False
        dates = clock.date(gold), clock.date(answer)
        if dates[0] is not None and dates[1] is not None:
            return clock.same_date(dates[0], dates[1])
        return False if any(date is not None for date in dates) else None

    def _same_number_words(self, gold: str, answer: str, equal: object) -> bool | None:
        values = _spoken(gold), _spoken(answer)
        if values[0] is None and values[1] is None:
            return None
        texts = [text if value is None else latex_of(value) for text, value in zip((gold, answer), values, strict=True)]
        return self.equal(texts[0], texts[1])


def _numbers(latex: str) -> list[Plain]:
    return numeric_readings(latex) if len(latex) < 500 else []


def _spoken(latex: str) -> Fraction | None:
    if not latex or len(latex) > 200:
        return None
    text = tidy.flat(latex)
    return number_in_words(text) if text.isascii() else chinese_number(text)


def _same_words(gold: str, answer: str, equal: object) -> bool | None:
    said, wanted = tidy.words(answer), tidy.words(gold)
    if said is None or wanted is None:
        return None
    if said == wanted:
        return True
    days = clock.weekday(gold), clock.weekday(answer)
    if days[0] is not None and days[1] is not None:
        return days[0] == days[1]
    values = _spoken(gold), _spoken(answer)
    return None if any(value is not None for value in values) else False
