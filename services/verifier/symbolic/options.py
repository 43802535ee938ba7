r"""Answers to multiple-choice questions that give the letter and the value: \textbf{(C)}\ 12."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rgopd.verifier.symbolic.text import undelimited

Equal = Callable[[str, str], bool]

_GAP = r"(?:\s|\\[ ,;:!]|~|\\q?quad(?![A-Za-z])){0,6}"
_STYLED = re.compile(
    rf"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|bf|rm|boldsymbol)\s?\{{{_GAP}(?:[Oo]ption\s|[Cc]hoice\s)?"
    rf"(?:\(([A-J])\)|([A-J])[).:]|([A-J]))[.:]?{_GAP}([^{{}}]{{0,300}})\}}[.:)]?{_GAP}(.*)",
    re.DOTALL,
)
_PLAIN = re.compile(
    r"(?:[Oo]ption\s|[Cc]hoice\s)?(?:\(([A-J])\)|([A-J])[).:])[.:]?"
    rf"(?:\s|\\[ ,;:]|~|\\q?quad(?![A-Za-z])|(?=\\text)|(?=\$)){_GAP}(.*)",
    re.DOTALL,
)
_ALONE = re.compile(r"(?:[Oo]ption\s|[Cc]hoice\s)?\(?([A-Ja-j])\)?[.:)]?")


class Option(NamedTuple):
    """The letter, and the value in LaTeX or ""."""

    letter: str
    value: str


def option(latex: str) -> Option | None:
    """None where no letter is marked as one: C alone is, C + 1 is not."""
    text = undelimited(latex)
    if found := _STYLED.fullmatch(text):
        letter, inside, after = found[1] or found[2] or found[3], found[4].strip(), found[5].strip()
        if found[3] and (inside or after):
            return None  # a letter that nothing sets apart: \mathrm{C} x
        value = f"\\text{{{inside}}}{after}" if inside and not after else f"{inside} {after}".strip()
        return Option(letter, value)
    if found := _PLAIN.fullmatch(text):
        return Option(found[1] or found[2], found[3].strip())
    if found := _ALONE.fullmatch(text):
        return Option(found[1].upper(), "") if len(text) > 1 or found[1].isupper() else None
    return None


def same_option(gold: str, answer: str, equal: Equal) -> bool | None:
    """None where no letter stands beside a value on either side."""
    a, b = option(gold), option(answer)
    if a is None:
        return equal(gold, b.value) if b is not None and b.value else None
    if b is not None:
        if not a.value and not b.value:
            return a.letter == b.letter
        return a.letter == b.letter and (not a.value or not b.value or equal(a.value, b.value))
    if not a.value:
        return a.letter == answer.strip().upper() if len(answer.strip()) == 1 else None
    if len(answer.strip()) == 1 and answer.strip().isalpha():
        return a.letter == answer.strip().upper()
    return equal(a.value, answer)
