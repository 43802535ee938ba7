"""Which letter a response chose: for the kind `choice`, and for mathematics whose reference is a letter."""

from __future__ import annotations

import re

from rgopd.verifier.reading import after_reasoning

# Every repetition is bounded: two stars beside each other would be tried in all their divisions.
_LETTER = r"\(?\*{0,3}\(?([A-Z])\)?\*{0,3}\)?(?![\w'’]|\s{0,2}[+^/])"
_FONT = r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathsf|mathit|mbox|boldsymbol)\s?\{"
_IN_FONT = rf"{_FONT}\s?\(?([A-Z])\)?[.)]?\s?\}}"
_FORMULA = rf"\*{{0,3}}(?:(?:\$|\\\()\s?(?:{_IN_FONT}|\(?([A-Z])\)?[.)]?)\s?(?:\$|\\\))|{_IN_FONT})"
_WORD = r"\b(?:answer|option|choice|réponse|respuesta|resposta|risposta|antwort)\b|ответ|答案|选项|答え|정답"
_IS = r"(?:is|:|=|est|es|é|è|ist|это|是|为|：|は)?"
_SURELY = r"(?:(?:for sure|definitely|clearly|certainly|therefore|thus|likely|option|choice)\s)?"
_SAID = rf"(?i:(?:{_WORD})\*{{0,3}}\s{{0,3}}{_IS}\s{{0,3}}:?\s{{0,3}}{_SURELY})"
_ANNOUNCED = re.compile(rf"{_SAID}(?:{_LETTER}|{_FORMULA})")
_SMALL = re.compile(
    r"(?i:\banswer\*{0,3}\s{0,3}(?:is|:)\*{0,3}\s{0,3}:?\s{0,3}(?:option\s|choice\s)?)\*{0,3}"
    r"(?:\(([a-z])\)|([a-z])(?:\)|(?=\.?\*{0,3}\.?\s{0,3}(?:$|\n))))"
)
_JUDGED = re.compile(
    r"(?:^|[.!?\n]\s{0,3}|\b(?:[Hh]ence|[Tt]hus|[Ss]o|[Tt]herefore),?\s)\*{0,3}\(?([A-Z])\)?\*{0,3}\s"
    r"is\s(?:the\s)?\*{0,3}(?:correct|right|best)(?:\s(?:answer|option|choice))?\*{0,3}\s{0,3}(?:[.!\n]|$)"
    r"|\bI\s(?:would\s)?(?:choose|pick|select)\s(?:option\s)?\*{0,3}\(?([A-Z])\)?\*{0,3}\s{0,3}(?:[.!\n]|$)"
)
_CONCLUDED = re.compile(
    r"(?i:\b(?:therefore|so|thus|hence)\b[^.\n]{0,40}\bit(?:'s| is) )\(?([A-Z])\)?(?=\s{0,3}(?:\.|$|\n))"
)
_BOXED = re.compile(
    r"\\boxed\s{0,3}\{\s{0,3}(?:\\(?:text|mathrm|textbf)\s{0,3}\{)?\s{0,3}\(?([A-Za-z])\)?[.)]?\s{0,3}\}"
)
_ALONE = re.compile(
    r"^\s{0,8}(?:[-*]\s{0,3}|#{1,6}\s{0,3})?\(?\*{0,3}\(?([A-Z])\)?\*{0,3}[.):]?\*{0,3}\s{0,8}$", re.MULTILINE
)
_FIRST = re.compile(r"^\s{0,8}\*{0,3}(?:\((?P<in_brackets>[A-Z])\)|(?P<before_dot>[A-Z])\*{0,3}[.):])[.:]?\*{0,3}\s")


def chosen(response: str, options: list[str]) -> str | None:
    """The letter chosen last and most plainly: boxed, announced, alone on a line, at the start, or quoted."""
    text = after_reasoning(response)
    for pattern in (_BOXED, _ANNOUNCED, _JUDGED, _CONCLUDED, _ALONE, _SMALL):
        found = pattern.findall(text)
        if found:
            return "".join(found[-1]).upper()
    if first := _FIRST.match(text):
        return str(first["in_brackets"] or first["before_dot"])
    last = text.strip().rpartition("\n")[2].strip().rstrip(".").casefold()
    quoted = [i for i, option in enumerate(options) if option.strip().casefold() == last]
    return chr(ord("A") + quoted[0]) if len(quoted) == 1 else None
