"""Ratios: 3:4 is 6:8 and three quarters; 1:2:3 is 2:4:6 and nothing with fewer terms."""

from __future__ import annotations

import re
from collections.abc import Callable

from rgopd.verifier.symbolic.clock import time_of_day
from rgopd.verifier.symbolic.lists import RELATION, split
from rgopd.verifier.symbolic.numbers import plain_number
from rgopd.verifier.symbolic.spelling import rewritten, styled
from rgopd.verifier.symbolic.text import flat

Equal = Callable[[str, str], bool]

_TO = re.compile(r"(?<=[\d})\s])\s?\bto\b\s?(?=[\d\\(\s])")
_NAMED = re.compile(r"[^=\d]{1,60}:[^=\d]{1,60}=")
_SLASH = re.compile(r"(\d{1,9})\s?/\s?(\d{1,9})|\\frac\{(\d{1,9})\}\{(\d{1,9})\}")


def ratio(latex: str) -> tuple[str, ...] | None:
    """The terms; None for anything else."""
    text = flat(latex)
    if (":" not in text and " to " not in text) or len(text) > 200 or "\\{" in text or "|" in text:
        return None
    text = _NAMED.sub("", _TO.sub(":", text), count=1) if "=" in text else _TO.sub(":", text)
    terms = [term.strip() for term in split(text, ":")]
    if len(terms) < 2 or not all(terms) or RELATION.search(text) or "=" in text or "," in text:
        return None
    if any(re.search(r"[A-Za-z]{3,}|[A-Za-z]{2}\s|\s[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", "", term)) for term in terms):
        return None
    return tuple(rewritten(styled(term)).strip() for term in terms)


def same_ratio(gold: str, answer: str, equal: Equal) -> bool | None:
    """None where neither is a ratio."""
    a, b = ratio(gold), ratio(answer)
    if a is None and b is None:
        return None
    if a is not None and b is not None:
        return _proportional(a, b, equal)
    terms, other = (a, answer) if a is not None else (b, gold)
    assert terms is not None
    if len(terms) != 2 or "\\ldots" in terms:
        return False
    if time_of_day(gold if a is not None else answer) is not None:  # 3:20 is 3/20 and not 0.15
        slash = _SLASH.fullmatch(styled(flat(other)).strip())
        return slash is not None and [t for t in slash.groups() if t] == [term.lstrip("0") or "0" for term in terms]
    below = plain_number(terms[1])
    if below is not None and below.value == 0:
        return False
    return equal(
        *(
            (f"\\frac{{{terms[0]}}}{{{terms[1]}}}", other)
            if a is not None
            else (other, f"\\frac{{{terms[0]}}}{{{terms[1]}}}")
        )
    )


def _proportional(a: tuple[str, ...], b: tuple[str, ...], equal: Equal) -> bool:
    if len(a) != len(b) or any("dots" in t or t == "..." for t in (*a, *b)):
        return False
    numbers = [plain_number(term) for term in (*a, *b)]
    if all(numbers):
        values = [n.value for n in numbers if n is not None]
        x, y = values[: len(a)], values[len(a) :]
        return any(x) and any(y) and all(x[i] * y[j] == x[j] * y[i] for i in range(len(a)) for j in range(i))
    return all(equal(rf"({a[i]}) \cdot ({b[0]})", rf"({b[i]}) \cdot ({a[0]})") for i in range(1, len(a)))
