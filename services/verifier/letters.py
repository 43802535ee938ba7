"""Which letter a response chose: for the kind `choice`, and for mathematics whose reference is a letter."""

from __future__ import annotations

import re

# Every repetition is bounded: two stars beside each other would be tried in all their divisions.
_LETTER = r"\(?\*{0,3}\(?([A-Z])\)?\*{0,3}\)?(?![\w'’])"
_ANNOUNCED = re.compile(rf"(?i:\b(?:answer|option|choice)\b\*{{0,3}}\s{{0,3}}(?:is|:|=)?\s{{0,3}}:?\s{{0,3}}){_LETTER}")
_BOXED = re.compile(
    r"\\boxed\s{0,3}\{\s{0,3}(?:\\(?:text|mathrm|textbf)\s{0,3}\{)?\s{0,3}\(?([A-Za-z])\)?[.)]?\s{0,3}\}"
)
_ALONE = re.compile(r"^\s{0,8}(?:[-*]\s{0,3})?\(?\*{0,3}\(?([A-Z])\)?\*{0,3}[.):]?\*{0,3}\s{0,8}$", re.MULTILINE)
_FIRST = re.compile(r"^\s*\(?([A-Z])\)?[.):]\s")


def chosen(response: str, options: list[str]) -> str | None:
    """The letter chosen last and most plainly: boxed, announced, alone on a line, at the start, or quoted."""
    text = response.rpartition("</think>")[2]
    for pattern in (_BOXED, _ANNOUNCED, _ALONE, _FIRST):
        found = pattern.findall(text)
        if found:
            return str(found[-1]).upper()
    last = text.strip().rpartition("\n")[2].strip().rstrip(".").casefold()
    quoted = [i for i, option in enumerate(options) if option.strip().casefold() == last]
    return chr(ord("A") + quoted[0]) if len(quoted) == 1 else None
