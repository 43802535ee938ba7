"""Which letter a response chose: for the kind `choice`, and for mathematics whose reference is a letter."""

from __future__ import annotations

import re

# Every repetition is bounded: two stars beside each other would be tried in all their divisions.
_LETTER = r"\(?\*{0,3}\(?([A-Z])\)?\*{0,3}\)?(?![\w'’])"
_WORD = r"\b(?:answer|option|choice|réponse|respuesta|resposta|risposta|antwort)\b|ответ|答案|选项|答え|정답"
_IS = r"(?:is|:|=|est|es|é|è|ist|это|是|为|：|は)?"
_SURELY = r"(?:(?:for sure|definitely|clearly|certainly|therefore|thus|likely|option|choice)\s)?"
_ANNOUNCED = re.compile(rf"(?i:(?:{_WORD})\*{{0,3}}\s{{0,3}}{_IS}\s{{0,3}}:?\s{{0,3}}{_SURELY}){_LETTER}")
_CONCLUDED = re.compile(
    r"(?i:\b(?:therefore|so|thus|hence)\b[^.\n]{0,40}\bit(?:'s| is) )\(?([A-Z])\)?(?=\s{0,3}(?:\.|$|\n))"
)
_BOXED = re.compile(
    r"\\boxed\s{0,3}\{\s{0,3}(?:\\(?:text|mathrm|textbf)\s{0,3}\{)?\s{0,3}\(?([A-Za-z])\)?[.)]?\s{0,3}\}"
)
_ALONE = re.compile(r"^\s{0,8}(?:[-*]\s{0,3})?\(?\*{0,3}\(?([A-Z])\)?\*{0,3}[.):]?\*{0,3}\s{0,8}$", re.MULTILINE)
_FIRST = re.compile(r"^\s{0,8}\*{0,3}(?:\((?P<in_brackets>[A-Z])\)|(?P<before_dot>[A-Z])\*{0,3}[.):])[.:]?\*{0,3}\s")


def chosen(response: str, options: list[str]) -> str | None:
    """The letter chosen last and most plainly: boxed, announced, alone on a line, at the start, or quoted."""
    text = response.rpartition("</think>")[2]
    for pattern in (_BOXED, _ANNOUNCED, _CONCLUDED, _ALONE):
        found = pattern.findall(text)
        if found:
            return str(found[-1]).upper()
    if first := _FIRST.match(text):
        return str(first["in_brackets"] or first["before_dot"])
    last = text.strip().rpartition("\n")[2].strip().rstrip(".").casefold()
    quoted = [i for i, option in enumerate(options) if option.strip().casefold() == last]
    return chr(ord("A") + quoted[0]) if len(quoted) == 1 else None
