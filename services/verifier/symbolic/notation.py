r"""Notations of calculators, programs and textbooks, written as LaTeX: 2**10, 7*pi, \log_e, _5C_2, \sin 45^\circ."""

from __future__ import annotations

import re

from rgopd.verifier.symbolic import figures

_LONGEST = 1000
_POWER = re.compile(r"(?<=[\w)\]}])\s?\*\*\s?(?=[\w(\\{+-])")
_TIMES = re.compile(r"(?<=[\w)\]}])\s?\*\s?(?=[\w(\\])")
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_LN = re.compile(r"\\log\s?_\s?(?:e(?![A-Za-z])|\{\s?(?:e|\\mathrm\{e\})\s?\})")
_CHOOSE = re.compile(r"(?:\{\})?(?<![\w}])[_^]\s?\{?(\w{1,6})\}?\s?C\s?_\s?\{?(\w{1,6})\}?(?![A-Za-z])")
_CHOOSE_CALL = re.compile(r"C\s?\(\s?(\d{1,6})\s?,\s?(\d{1,6})\s?\)")
_INFINITY = re.compile(r"([-+]?)\s?(?:\\(?:text|mathrm|textrm)\s?\{\s?)?(?:positive |plus )?[Ii]nfinity\s?\}?")
_TEXT_SIGN = re.compile(r"\\(?:text|mathrm|textrm)\s?\{\s?([-+=])\s?\}")
_TEXT_VALUES = re.compile(r"^\s?\\(?:text|mathrm|textrm)\s?\{\s?([(\[][-+\d\s.,/]{1,200}[)\]])\s?\}\s?$")
_DERIVATIVE = re.compile(
    r"\s?(?:\\frac\s?\{d(?:\^\{?2\}?)?\s?[a-z]\}\s?\{d\s?[a-z](?:\^\{?2\}?)?\}|d[a-z]/d[a-z]|[a-z]'{1,3}(?:\s?\(\s?[a-z]\s?\))?)\s?="
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])|\\operatorname\{cis\}|\\cis(?![A-Za-z])")
_DEGREES = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s?(?:\^\s?\\circ(?![A-Za-z])|\^\s?\{\s?\\circ\s?\}|°|\\degree)")
_LETTER = r"\\(?!frac|sqrt|text|math|left)[A-Za-z]{2,10}"
_FRACTION = re.compile(rf"\\[dtc]?frac\s?({_LETTER}|\d)\s{{0,3}}({_LETTER}|\d|(?=\{{))")
_ROOT = re.compile(r"\\sqrt\s?(\d{2,20})")
_IMAGINARY = {letter: re.compile(rf"(?<![A-Za-z\\]){letter}(?![A-Za-z])") for letter in "ij"}
_FUNCTION = re.compile(r"\s?\\?[A-Za-z]\s?(?:\(\s?[A-Za-z]\s?\)|\\left\(\s?[A-Za-z]\s?\\right\))\s?=")
_NAMES_OF_RATIO = re.compile(
    r"^\s?\$?\s?(?=[A-Za-z\\])[^=\d:]{1,12}(?:_\{?\w\}?)?\s?:\s?[^=\d:]{1,12}(?:_\{?\w\}?)?\s?=(?=[^=]*:)"
)
_VALUE = re.compile(r"(?<![A-Za-z\\])([fgh])\s?\(\s?[a-z]\s?\)")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt)(?![A-Za-z])")
_Y = re.compile(r"\s?y\s?=")


_CASES = re.compile(r"\\begin\{cases\}(.{1,900}?)\\end\{cases\}", re.DOTALL)
_ABOUT = re.compile(
    r"(?i)^\s?\$?\s?(?:\\(?:text|mathrm|textrm)\s?\{\s?)?(?:approximately|approx\.?|about|roughly|around)(?![a-z])\s?"
    r"(?:equal to)?\s?"
)
_ANY_INTEGER = re.compile(
    r"[\s,;(]{1,4}(?:\\(?:text|q?quad|,|;|:)\s?){0,2}\{?[\s(]{0,3}(?:where|for(?: all| any| every)?|with|and)?"
    r"[\s}$]{0,4}(?:\\(?:forall|quad)\s?)?([kmn])\s?\\in\s?(?:\\(?:mathbb|mathbf|Bbb)\s?\{?\s?Z\s?\}?|\\Z|Z)[\s)$}.]{0,3}$"
)


def written(text: str) -> str:
    """The same in LaTeX; a text of more than some hundred characters as it is."""
    if len(text) > _LONGEST:
        return text
    while text.endswith("\\\\"):
        text = text[:-2].rstrip()
    while text.startswith("\\\\"):
        text = text[2:].lstrip()
    if "{cases}" in text and "&" not in text and (found := _CASES.fullmatch(text.strip(" $"))):
        text = ", ".join(row.strip(" ,") for row in found[1].split("\\\\") if row.strip())
    if found := _ABOUT.match(text):
        text = text[found.end() :].lstrip("} ")
    if "\\in" in text and (found := _ANY_INTEGER.search(text)) and _has(text[: found.start()], found[1]):
        text = text[: found.start()]
    if "*" in text:
        text = _TIMES.sub(r"\\cdot ", _POWER.sub("^", text)) if not text.startswith("*") else text
    if "pi" in text:
        text = _PI.sub(r"\\pi ", text)
    if "frac\\" in text:
        text = _FRACTION.sub(lambda m: f"\\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), text)
    if "\\sqrt" in text:
        text = _ROOT.sub(r"\\sqrt{\1}", text)
    if "\\log" in text:
        text = _LN.sub(r"\\ln ", text)
    if "C" in text:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    if "nfinity" in text and (found := _INFINITY.fullmatch(text.strip(" $"))):
        return f"{found[1]}\\infty"
    if "\\text" in text or "\\mathrm" in text:
        text = _TEXT_VALUES.sub(r"\1", _TEXT_SIGN.sub(r"\1", text))
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
    return text


def _has(text: str, letter: str) -> bool:
    return re.search(rf"(?<![A-Za-z\\]){letter}(?![A-Za-z])", text) is not None


def paired(gold: str, answer: str) -> tuple[str, str]:
    """Both, where what one is tells how the other is meant: `f(x) =` beside `y =`; C(5, 2) beside a number."""
    gold, answer = (_unlabelled(text) for text in (gold, answer))
    answer = figures.column(answer) if "matrix}" in gold else answer
    for text, other in ((gold, answer), (answer, gold)):
        if (found := _DERIVATIVE.match(text)) and "=" not in other:
            rest = text[found.end() :]
            return (rest, other) if text is gold else (other, rest)
    labels = [_FUNCTION.match(text) or _Y.match(text) for text in (gold, answer)]
    if labels[0] and labels[1] and _Y.match(gold) is not _Y.match(answer):
        return gold[labels[0].end() :], answer[labels[1].end() :]
    if "j" in answer and _IMAGINARY["i"].search(gold) and not _IMAGINARY["i"].search(answer):
        answer = _IMAGINARY["j"].sub("i", answer)  # an engineer's
    return _chosen(gold, answer), _chosen(answer, gold)


def _unlabelled(text: str) -> str:
    """Without the names of a ratio's parts; a function's value in an inequality as one letter."""
    if ":" in text and "=" in text:
        text = _NAMES_OF_RATIO.sub("", text, count=1)
    return _VALUE.sub(r"\1", text) if _VALUE.search(text) and _INEQUALITY.search(text) else text


def _chosen(text: str, other: str) -> str:
    found = _CHOOSE_CALL.fullmatch(text.strip(" $"))
    return text if found is None or "(" in other else f"\\binom{{{found[1]}}}{{{found[2]}}}"
