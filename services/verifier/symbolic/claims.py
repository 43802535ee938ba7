"""What an answer claims beside its value: that two constants are equal, or what the value is not."""

from __future__ import annotations

import re

from rgopd.verifier.symbolic.lists import split

_DENIES = re.compile(r"\s?\$?\s?(?:\\(?:neq?|neg|lnot|not)(?![A-Za-z])|≠|!=|¬)")
_STEP = re.compile(r"\\(?:Rightarrow|Longrightarrow|implies|to|rightarrow|therefore)(?![A-Za-z])")
_OPERATORS = (
    r"\\(?:d?frac|tfrac|cdot|times|div|sqrt|pi|left|right|binom|ln|log|sin|cos|tan|cot|sec|csc|exp|circ|displaystyle)"
)
_CONSTANT = re.compile(rf"(?:{_OPERATORS}(?![A-Za-z])|\\[,;:! ]|[\d\s.+\-*/^(){{}}!|])+")
_UNSURE = re.compile(r"[\d)}]\s?\(|\)\s?[\d(]|\\(?:circ|sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
"""A pair of brackets may be a product or a point, an angle in degrees or not."""
_MOST = 6


def denies(gold: str, answer: str) -> bool:
    r"""\neq 42: says what the answer is not, where the reference says what it is."""
    return _DENIES.match(answer) is not None and _DENIES.search(gold) is None


def equations(gold: str, answer: str) -> list[tuple[str, str]]:
    """Pairs of constants that an answer calls equal ("6 * 7 = 42", "41 = 42"); none where the reference has an
    equation of its own."""
    if (
        "=" in gold
        or _STEP.search(gold)
        or not ("=" in answer or _STEP.search(answer))
        or len(answer) > 400
        or "\\begin" in answer
    ):
        return []
    steps = [[side.strip(" $") for side in split(step, "=")] for step in _STEP.split(answer)]
    if all(len(step) == 1 for step in steps):
        steps = [[step[0] for step in steps]]  # 41 \to 42
    pairs: list[tuple[str, str]] = []
    for step in steps:
        known = [side for side in step if _CONSTANT.fullmatch(side) and any(c.isdigit() for c in side)]
        if any(map(_UNSURE.search, known)):
            continue
        pairs += zip(known, known[1:], strict=False)
    return pairs[:_MOST]
