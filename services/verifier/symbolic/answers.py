"""Judging a mathematical answer against a reference. Runs inside a worker process; no deadline of its own.

The cheap and certain tests come first; math-verify decides the rest, and where it is known to be wrong (sets and
tuples, tiny numbers, units) it is overruled.
"""

from __future__ import annotations

import re
from typing import Any

from rgopd.verifier.letters import chosen
from rgopd.verifier.reading import last_line
from rgopd.verifier.symbolic import clock, lists
from rgopd.verifier.symbolic import text as tidy
from rgopd.verifier.symbolic.equality import Judge
from rgopd.verifier.symbolic.options import Option, chosen_option, option
from rgopd.verifier.symbolic.parsing import NothingFound, Unreadable, same_symbols
from rgopd.verifier.symbolic.prose import Phrase, phrases
from rgopd.verifier.symbolic.quantities import quantity
from rgopd.verifier.symbolic.ratios import ratio
from rgopd.verifier.symbolic.scripts import plain

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
    answer_text = tidy.unescaped(plain(answer_text[-tidy.MAX_ANSWER :]))
    outcome: dict[str, Any] = {}
    for reference in question["references"]:
        outcome = _judge_one(_reference(reference), answer_text, question.get("tolerance"))
        if outcome["status"] != "failed":
            break
    return outcome


def _reference(text: str) -> str:
    """A whole solution as reference stands for what it boxes."""
    text = tidy.unescaped(plain(text))
    return tidy.boxed_answer(text) or text


def _braces_match(latex: str) -> bool:
    """Whether grouping braces pair up; escaped ones are signs of their own."""
    grouping = latex.replace(r"\{", "").replace(r"\}", "")
    return grouping.count("{") == grouping.count("}")


def _judge_one(reference: str, response: str, tolerance: float | None) -> dict[str, Any]:
    if not _braces_match(reference):
        return {"status": "error", "reason": "the reference's braces do not match; correct it", "extracted": None}
    judge = Judge(tolerance)
    try:
        return _in_box(reference, response, judge)
    except Unreadable:
        return {"status": "error", "reason": "the reference cannot be parsed; correct it", "extracted": None}
    except NothingFound:
        return {"status": "failed", "reason": "no answer found in the response", "extracted": None}


def _in_box(reference: str, response: str, judge: Judge) -> dict[str, Any]:
    sentence = tidy.announced(response)
    if sentence is not None:
        response = sentence
    many = response.count("\\boxed") > 1 and lists.several(reference) is not None
    answer = tidy.boxed_answer(response, of_several=many)
    if answer is None and tidy.looks_like_math(tidy.bare(response)):
        answer = tidy.bare(response)
    closing = last_line(response)
    if answer is None and closing is not None and tidy.is_empty_set(closing):
        answer = closing
    if answer is not None:
        return _outcome(judge.equal(reference, answer), answer)
    return _in_prose(reference, response, judge)


def _in_prose(reference: str, response: str, judge: Judge) -> dict[str, Any]:
    """No box: the letter, where the reference has one; what the response ends in or announces; at last whatever
    math-verify finds."""
    if (said := _says(reference, response)) is not None:
        return _outcome(said, response[:200])
    choice = option(reference)
    found = phrases(response)
    both = _lettered(found, choice) if choice is not None else None
    if both is not None:
        return _outcome(judge.equal(reference, both), both)
    letter = chosen(response, []) if choice is not None else None
    if choice is not None and letter is not None:
        return _outcome(letter == choice.letter, letter)
    if choice is not None and choice.value:
        reference = choice.value
    for phrase in found:
        mathy = tidy.looks_like_math(phrase.text)
        if judge.equal(reference, phrase.text) if mathy else judge.certain(reference, phrase.text):
            return _outcome(True, phrase.text)
        if _plain_speech(phrase.text) or (phrase.announced and (mathy or quantity(phrase.text) is not None)):
            return _outcome(False, phrase.text)
    return _outcome(same_symbols(reference, "", response, judge.tolerance), response[-200:])


_BREAKS = str.maketrans(",.*_?!:;()", " " * 10)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def _says(reference: str, response: str) -> bool | None:
    """Yes or no, true or false, where a short response begins with it: "Yes, it is." """
    wanted = tidy.words(reference) or ""
    words = response.casefold().translate(_BREAKS).split()
    if wanted not in _OPPOSITES or not words or len(words) > 30 or words[0] not in (wanted, _OPPOSITES[wanted]):
        return None
    other = _OPPOSITES[words[0]]
    return None if other in words else words[0] == wanted


def _plain_speech(phrase: str) -> bool:
    """A time, a date or a ratio: math-verify would take a number out of it."""
    return bool(clock.time_of_day(phrase) or clock.date(phrase) or ratio(phrase) or phrase.startswith("not "))


_VALUE = re.compile(r"[-+]?[\d.$\\]")


def _lettered(found: list[Phrase], choice: Option) -> str | None:
    """The first phrase that gives a letter and a value: no "C, because ...", where a formula is asked for."""
    worded = not tidy.looks_like_math(choice.value)
    for phrase in found:
        read = chosen_option(phrase.text)
        if read is None or not read.value:
            continue
        if worded or tidy.looks_like_math(read.value) or _VALUE.match(read.value):
            return phrase.text
    return None


def _outcome(equal: bool, extracted: str) -> dict[str, Any]:
    reason = "" if equal else "not equal to the reference"
    return {"status": "passed" if equal else "failed", "reason": reason, "extracted": extracted[:2000]}
