"""Judging a mathematical answer against a reference. Runs inside a worker process; no deadline of its own.

The cheap and certain tests come first; math-verify decides the rest, and where it is known to be wrong (sets and
tuples, tiny numbers, units) it is overruled.
"""

from __future__ import annotations

import math
import re
from typing import Any

from latex2sympy2_extended.logic import And  # type: ignore[import-untyped]
from latex2sympy2_extended.sets import FiniteSet  # type: ignore[import-untyped]
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Basic
from sympy import FiniteSet as SympyFiniteSet
from sympy.core.relational import Relational
from sympy.sets.sets import Interval, Union

from rgopd.verifier.letters import chosen
from rgopd.verifier.reading import last_line
from rgopd.verifier.symbolic import text as tidy
from rgopd.verifier.symbolic.numbers import same_number
from rgopd.verifier.symbolic.units import same_quantity

_SAMPLES = (
    (r"$\frac{1}{2}$", r"so the answer is $\boxed{0.5}$"),
    (r"\{1,2\}", r"\boxed{\{2,1\}}"),
    ("[0,1)", r"$0 \le x < 1$"),
    ("x^2+2x+1", r"$(x+1)^2$"),
    (r"\sqrt{2}", r"$2^{1/2}$"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\begin{pmatrix}1\\2\end{pmatrix}$"),
    ("x < 3", "$3 > x$"),
    ("y=2x+1", "The line is $y = 2x + 1$."),
    (r"\frac{\pi}{4}", r"$\pi/4$"),
    ("42", "The answer is 42."),
)
_LETTER = re.compile(r"\(?(?:\\(?:text|mathrm|textbf)\s*\{)?\s*\(?([A-Z])\)?\s*\}?\)?")
_TARGETS = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]


def warm_up() -> None:
    """Fill the parser's caches, so that forked workers start with them."""
    for reference, response in _SAMPLES:
        judge({"references": [reference], "response": response})


def judge(question: dict[str, Any]) -> dict[str, Any]:
    """Judge a response against any of several references.

    `question`: references, response, and optionally extract (see `text.extract`) and tolerance.
    Answers {"status", "reason", "extracted"}.
    """
    how = question.get("extract", "auto")
    answer_text = tidy.extract(question["response"], how)
    if answer_text is None:
        return {"status": "failed", "reason": f"no {how} answer in the response", "extracted": None}
    outcome: dict[str, Any] = {}
    for reference in question["references"]:
        outcome = _judge_one(reference, answer_text[-tidy.MAX_ANSWER :], question.get("tolerance"))
        if outcome["status"] != "failed":
            break
    return outcome


def _braces_match(latex: str) -> bool:
    """Whether grouping braces pair up; escaped ones are signs of their own."""
    grouping = latex.replace(r"\{", "").replace(r"\}", "")
    return grouping.count("{") == grouping.count("}")


def _judge_one(reference: str, response: str, tolerance: float | None) -> dict[str, Any]:
    if not _braces_match(reference):
        return {"status": "error", "reason": "the reference's braces do not match; correct it", "extracted": None}
    sentence = tidy.announced(response)
    if sentence is not None:
        response = sentence
    answer = tidy.boxed_answer(response)
    if answer is None and tidy.looks_like_math(tidy.bare(response)):
        answer = tidy.bare(response)
    closing = last_line(response)
    if answer is None and closing is not None and tidy.is_empty_set(closing):
        answer = closing
    if answer is not None:
        certain = _by_text(reference, answer)
        if certain is not None:
            return _outcome(certain, answer)
    letter = _LETTER.fullmatch(tidy.bare(reference))
    if letter and chosen(response, []) == letter[1]:
        return _outcome(True, letter[1])
    return _by_symbols(reference, response, answer, tolerance)


def _by_text(reference: str, answer: str) -> bool | None:
    """What can be told without parsing: None when nothing can."""
    if tidy.canonical(reference) == tidy.canonical(answer):
        return True
    if tidy.is_empty_set(reference) or tidy.is_empty_set(answer):
        return tidy.is_empty_set(reference) and tidy.is_empty_set(answer)
    said, wanted = tidy.words(answer), tidy.words(reference)
    if said is not None and wanted is not None:
        return said == wanted
    return same_quantity(reference, answer)


def _by_symbols(reference: str, response: str, answer: str | None, tolerance: float | None) -> dict[str, Any]:
    gold = _parse(_as_math(tidy.ungrouped(reference)))
    if tidy.is_plain_number(reference):
        gold += _parse(reference)  # 0,5 is a pair in LaTeX and a number in half of the world
    if not any(isinstance(g, Basic) or g is not None and not isinstance(g, str) for g in gold):
        gold = [tidy.bare(reference)] if gold or tidy.bare(reference) else []
    if not gold:
        return {"status": "error", "reason": "the reference cannot be parsed; correct it", "extracted": None}
    found = _parse(_as_math(tidy.ungrouped(answer)) if answer is not None else response)
    if answer is not None and tidy.is_plain_number(answer):
        found += _parse(answer)
    if not found:
        return {"status": "failed", "reason": "no answer found in the response", "extracted": answer}
    return _outcome(_equal(gold, found, reference, answer, tolerance), answer or str(found[-1]))


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


def _as_math(latex: str) -> str:
    if any(mark in latex for mark in ("$", "\\boxed", "\\(", "\\[")):
        return latex
    return f"${latex}$"


def _parse(text: str) -> list[Any]:
    return list(parse(text, _TARGETS, parsing_timeout=None, raise_on_error=False))


def _outcome(equal: bool, extracted: str) -> dict[str, Any]:
    reason = "" if equal else "not equal to the reference"
    return {"status": "passed" if equal else "failed", "reason": reason, "extracted": extracted[:2000]}
