r"""One spelling for what is written in several ways: repeating decimals, powers of ten, grouped digits, mixed numbers.
Every function takes and gives a text; what is left is LaTeX that a parser reads rightly. All are linear."""

from __future__ import annotations

import re

_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|bigl?|bigr|Bigl?|Bigr|biggl?|biggr|left|right|,|;|!|:|>|quad|qquad)"
    r"(?![A-Za-z])|(?<!\\)\\ |~|(?<!\\)\$"
)
_WRAPPED = re.compile(r"\\(?:mathbf|boldsymbol|bm|textbf|textit|emph|mathit|underline)\s{0,3}\{([^{}]{0,200})\}")
_TEXT_NUMBER = re.compile(r"\\(?:text|mathrm|textrm|mbox)\s{0,3}\{\s{0,5}([-+]?[\d.,/ ]{1,60}|e|i)\s{0,5}\}")
_OVERLINE = re.compile(r"(\d{0,60})\.(\d{0,60})\\(?:overline|bar|overset|dot)\s{0,3}(?:\{(\d{1,60})\}|(\d))")
_DOTTED = re.compile(r"(\d{0,60})\.(\d{0,60})\\dot\s{0,2}\{?(\d)\}?(\d{0,60})\\dot\s{0,2}\{?(\d)\}?")
_BRACKETED = re.compile(r"([-+]?)(\d{0,60})\.(\d{0,60})\((\d{1,60})\)")
_ELLIPSIS = re.compile(r"(\d{0,60})\.(\d{2,60})\s{0,3}(?:\\(?:ldots|dots|cdots)(?![A-Za-z])|\.{3})")
_POWER_E = re.compile(r"(?<![A-Za-z\\\d.])(\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})\s?(?:\\(?:text|mathrm)\{[eE]\}|[eE])"
                      r"\s?\{?([+-]?\d{1,5})\}?(?![\d.A-Za-z])")  # fmt: skip
_POWER_X = re.compile(
    r"(?<=\d)\s{0,3}[xX*]\s{0,3}10\s{0,2}\^\s{0,2}(?:\{([^{}]{1,12})\}|\(([^()]{1,12})\)|([+-]?\d{1,6}))"
)
_CARET = re.compile(r"\^\s?([+-]?\d{2,12})(?!\d)")
_CALL_ROOT = re.compile(r"\\sqrt\s{0,3}\(([^()]{0,200})\)|(?<![A-Za-z\\])sqrt\s{0,3}\(([^()]{0,200})\)")
_MIXED = re.compile(r"(?<![\d.,/^_{(a-zA-Z\\+*])([-+]?\d{1,20})\s{1,3}(\d{1,20})\s?/\s?(\d{1,20})(?![\d.,/^])")
_GROUPED_INSIDE = re.compile(r"(?<![\d.,(\[])(?<!\\\{)\d{1,3}(?:(?:,|\{,\}|,\\!\s?|\\,|\\!|\\ )\d{3})+(?![\d,])")
_UNDERSCORED = re.compile(r"\d{1,3}(?:\\?_\d{3})+(?:\.\d+)?")
_APOSTROPHES = re.compile(r"(?<![\d.,'])\d{1,3}(?:'\d{3})+(?![\d'])")


def styled(text: str) -> str:
    r"""Without what only changes the looks: \left, \mathbf, thin spaces, \text around digits."""
    if "\\" in text or "~" in text or "$" in text:
        text = _TEXT_NUMBER.sub(r"\1", _WRAPPED.sub(r"\1", text))
        text = _STYLE.sub(" ", text.replace("\\!", "").replace("\\$", ""))
        text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    return text


def rewritten(text: str) -> str:
    """Numbers in one spelling, inside any formula."""
    if "\\math" in text or "\\text" in text:
        text = _TEXT_NUMBER.sub(r"\1", _WRAPPED.sub(r"\1", text))
    if "." in text:
        text = _repeating(text)
    if "e" in text or "E" in text:
        text = _POWER_E.sub(r"\1\\times 10^{\2}", text)
    if "10" in text:
        text = _POWER_X.sub(lambda m: f"\\times 10^{{{m[1] or m[2] or m[3]}}}", text)
    if "^" in text:
        text = _CARET.sub(r"^{\1}", text)
    if "sqrt" in text:
        text = _CALL_ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    if "/" in text:
        text = _MIXED.sub(_mixed, text)
    if "_" in text and _UNDERSCORED.fullmatch(text.strip()):
        text = text.replace("\\", "").replace("_", "")
    if "'" in text:
        text = _APOSTROPHES.sub(lambda m: m[0].replace("'", ""), text)
    return text


def joined(text: str) -> str:
    """Digits in groups of three joined wherever they stand: only for a text in which no comma parts two values."""
    return _GROUPED_INSIDE.sub(lambda m: re.sub(r"\D", "", m[0]), text)


def _mixed(found: re.Match[str]) -> str:
    return f"{found[1]}\\frac{{{found[2]}}}{{{found[3]}}}"


def _repeating(text: str) -> str:
    if "\\dot" in text:
        text = _DOTTED.sub(lambda m: _fraction(m[1], m[2], m[3] + m[4] + m[5]), text)
    if "\\" in text:
        text = _OVERLINE.sub(lambda m: _fraction(m[1], m[2], m[3] or m[4]), text)
    if bracketed := _BRACKETED.fullmatch(text.strip()):
        text = bracketed[1] + _fraction(bracketed[2], bracketed[3], bracketed[4])
    return _ELLIPSIS.sub(_by_ellipsis, text)


def _by_ellipsis(found: re.Match[str]) -> str:
    """0.1666... -> 1/6: the shortest block that ends the digits and stands there at least twice (a single digit three
    times). Where none does, the digits stay a decimal that somebody cut, with its dots."""
    digits = found[2]
    for size in range(1, len(digits) // 2 + 1):
        block, times = digits[-size:], 3 if size == 1 else 2
        if digits.endswith(block * times):
            while digits.endswith(block):
                digits = digits[: -len(block)]
            return _fraction(found[1], digits, block)
    return found[0]


def _fraction(whole: str, fixed: str, block: str) -> str:
    below = (10 ** len(block) - 1) * 10 ** len(fixed)
    above = int((whole or "0") + fixed + block) - int((whole or "0") + fixed)
    return f"\\frac{{{above}}}{{{below}}}"
