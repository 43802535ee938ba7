r"""Answers to multiple-choice questions that give the letter and the value: \textbf{(C)}\ 12."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rgopd.verifier.symbolic.text import undelimited, unstarred

Equal = Callable[[str, str], bool]

_GAP = r"(?:\s|\\[ ,;:!]|~|\\q?quad(?![A-Za-z])){0,6}"
_FONT = (
    r"\\(?:text|textbf|textrm|textit|textsf|textup|mathrm|mathbf|mathsf|mathit|mathcal|mbox|operatorname|bf|rm"
    r"|boldsymbol)\s?"
)
_NAMED = r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer:?)(?:\s|\\ |~)\s?)?"
_FRAMED = (
    re.compile(rf"({_NAMED})[(\[]{_GAP}{_FONT}\{{{_GAP}([A-Ja-j]){_GAP}\}}{_GAP}[)\]]"),
    re.compile(rf"({_NAMED})\[{_GAP}([A-J]){_GAP}\]"),
    re.compile(rf"({_NAMED})(?:\$|\\\(){_GAP}\(?([A-J])\)?{_GAP}(?:\$|\\\))(?=\s?[).:])"),
    re.compile(rf"({_NAMED})(?:\$|\\\(){_GAP}\(([A-J])\){_GAP}(?:\$|\\\))"),
    re.compile(r"()\{?\\(?:bf|rm|sf|it)\s([A-J])\}?$"),
)
_STYLED = re.compile(
    rf"{_FONT}\{{{_GAP}{_NAMED}"
    rf"(?:\(([A-Ja-j])\)|([A-J])[).:]|([A-J]))[.:]?{_GAP}([^{{}}]{{0,300}})\}}([.:)]?){_GAP}(.*)",
    re.DOTALL,
)
_PLAIN = re.compile(
    rf"{_NAMED}(?:\(([A-Ja-j])\)|([A-J])[).:]|([a-j])[).])[.:]?"
    rf"(?:\s|\\[ ,;:]|~|\\q?quad(?![A-Za-z])|(?=\\(?:text|frac|dfrac|sqrt|\$)|\$|\d)){_GAP}(.*)",
    re.DOTALL,
)
_ALONE = re.compile(rf"{_NAMED}\(?([A-Ja-j])\)?[.:)]?")
_DASHED = re.compile(r"(?:([A-J])|\(([A-J])\))\s?—\s?(.*)", re.DOTALL)
_BEHIND = re.compile(
    rf"(.{{0,300}}[\d}})$](?:\\\))?),?"
    rf"(?:{_GAP}(?:\s|\\ |~){_NAMED}\(([A-J])\)|{_GAP}{_FONT}\{{,?{_GAP}{_NAMED}\(([A-J])\){_GAP}\}})",
    re.DOTALL,
)
_FURTHER = re.compile(r"(?<![\w\\])\(?[b-jB-J]\)\s?[\w\\$-]|(?<![\w\\])\([a-jA-J]\)")


class Option(NamedTuple):
    """The letter, and the value in LaTeX or ""; small: it may be a factor as well, written small or last."""

    letter: str
    value: str
    small: bool = False


def option(latex: str) -> Option | None:
    """None where no letter is marked as one: C alone is, C + 1 is not, nor are parts (a), (b)."""
    text = unstarred(undelimited(latex)).strip()
    for framed in _FRAMED:
        text = framed.sub(r"\1(\2)", text, count=1) if framed.match(text) else text
    if found := _STYLED.fullmatch(text):
        letter, inside, after = found[1] or found[2] or found[3], found[4].strip(), found[6].strip()
        if found[3] and (inside or (after and not found[5])):
            return None  # a letter that nothing sets apart: \mathrm{C} x
        value = f"\\text{{{inside}}}{after}" if inside and not after else f"{inside} {after}".strip()
        return _read(letter, value)
    if found := _PLAIN.fullmatch(text) or _DASHED.fullmatch(text):
        *letters, value = found.groups()
        return _read(next(filter(None, letters)), value.strip())
    if found := _ALONE.fullmatch(text):
        return Option(found[1].upper(), "") if len(text) > 1 or found[1].isupper() else None
    return None


def chosen_option(latex: str) -> Option | None:
    r"""As `option`, of an answer: its letter may stand behind the value as well: 12 (C)."""
    read = option(latex)
    if read is None and (found := _BEHIND.fullmatch(unstarred(undelimited(latex)).strip())):
        return Option(found[2] or found[3], undelimited(found[1]), small=True)
    return read


def _read(letter: str, value: str) -> Option | None:
    if letter in "Aa" and _FURTHER.search(value):
        return None
    return Option(letter.upper(), value, letter.islower())


def same_option(gold: str, answer: str, equal: Equal) -> bool | None:
    """None where no letter stands beside a value on either side."""
    a, b = option(gold), chosen_option(answer)
    if a is None:
        if b is None or not b.value:
            return None
        return equal(gold, b.value) or (None if b.small else False)
    if b is not None:
        if not a.value and not b.value:
            return a.letter == b.letter
        return a.letter == b.letter and (not a.value or not b.value or equal(a.value, b.value))
    if not a.value:
        return a.letter == answer.strip().upper() if len(answer.strip()) == 1 else None
    if len(answer.strip()) == 1 and answer.strip().isalpha():
        return a.letter == answer.strip().upper()
    return equal(a.value, answer)
