"""math-verify: the parser, and the comparison of what it makes of two texts, overruled where it is wrong."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.logic import And  # type: ignore[import-untyped]
from latex2sympy2_extended.sets import FiniteSet  # type: ignore[import-untyped]
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Basic
from sympy import FiniteSet as SympyFiniteSet
from sympy.core.relational import Relational
from sympy.sets.sets import Interval, Union

from rgopd.verifier.symbolic import spelling
from rgopd.verifier.symbolic import text as tidy
from rgopd.verifier.symbolic.numbers import same_number

_TARGETS = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]


class Unreadable(ValueError):
    """The reference cannot be parsed."""


class NothingFound(ValueError):
    """There is no answer in the response."""


@lru_cache(maxsize=256)
def read(text: str) -> tuple[Any, ...]:
    """Everything that math-verify makes of a text: expressions, and strings where it cannot."""
    return tuple(parse(text, _TARGETS, parsing_timeout=None, raise_on_error=False))


def expression(latex: str) -> Any:
    """One expression, or None."""
    return next((e for e in read(as_math(spelling.rewritten(latex))) if isinstance(e, Basic)), None)


def as_math(latex: str) -> str:
    """Between $ signs, unless it has delimiters of its own."""
    if any(mark in latex for mark in ("$", "\\boxed", "\\(", "\\[")):
        return latex
    return f"${latex}$"


def same_symbols(reference: str, answer: str, response: str | None, tolerance: float | None) -> bool:
    """Is the answer equal to the reference? `response`: the prose to find the answer in, where none is given.

    Raises:
        Unreadable: the reference.
        NothingFound: in the response.
    """
    spelt = _spelt(reference)
    gold = list(read(as_math(spelt)))
    if tidy.is_plain_number(reference):
        gold += read(reference)  # 0,5 is a pair in LaTeX and a number in half of the world
    if not any(isinstance(g, Basic) or g is not None and not isinstance(g, str) for g in gold):
        gold = [tidy.bare(reference)] if gold or tidy.bare(reference) else []
    if not gold:
        raise Unreadable
    found = list(read(as_math(_spelt(answer)) if response is None else response))
    if response is None and tidy.is_plain_number(answer):
        found += read(answer)
    if not found:
        raise NothingFound
    return _equal(gold, found, reference, answer if response is None else None, tolerance)


def _spelt(latex: str) -> str:
    text = tidy.ungrouped(latex)
    if "$" in tidy.bare(latex) or len(text) > 1000:
        return text  # prose with formulas in it
    return spelling.joined(spelling.rewritten(text))


def _equal(gold: list[Any], found: list[Any], reference: str, answer: str | None, tolerance: float | None) -> bool:
    places = 6 if tolerance is None else max(0, math.floor(-math.log10(max(tolerance, 1e-15))))
    for g in gold:
        for f in found:
            overruled = _overrule(g, f, reference, answer, tolerance)
            if overruled is not None:
                if overruled:
                    return True
                continue
            if verify([g], [f], places, allow_set_relation_comp=True, timeout_seconds=None):
                return True
    return False


def _overrule(g: Any, f: Any, reference: str, answer: str | None, tolerance: float | None) -> bool | None:
    """Where math-verify is not asked."""
    if answer is not None:
        forms = {tidy.outer_form(reference), tidy.outer_form(answer)}
        if "set" in forms and forms & {"tuple", "list"}:
            return False  # {1, 2} has no order and (1, 2) has one
    if isinstance(f, (SympyFiniteSet, FiniteSet)):
        # (1, 2) may be a point or an interval, {1, 2} is never one
        braces = answer is not None and tidy.outer_form(answer) == "set"
        if isinstance(g, (Relational, And, Union)) or (isinstance(g, Interval) and braces):
            return False
    return same_number(g, f, tolerance)
