"""Where an answer stands in prose without a box: what is announced, or what the last sentence ends in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rgopd.verifier.reading import last_line
from rgopd.verifier.symbolic.text import bare, looks_like_math, unstarred

_ANNOUNCED = re.compile(
    r"(?i)(?:\b(?:final answer|answer|result|respuesta|réponse|reponse|antwort|risposta|resposta)\b|答案|答|ответ"
    r"|정답|答え)"
    r"\W{0,6}(?:\b(?:is|are|be|equals|es|est|ist|lautet|é|è)\b|应该是|是|为|為|は|:|=|—|-|\n)\s{0,3}:?\s{0,3}"
)
_LINKS = re.compile(
    r"(?i)\b(?:it's|is|are|was|were|be|at|equals|equal to|on|has|have|had|get|gives?|obtain|only|than|exactly)\s|[:=]\s"
)
_HAN = re.compile(r"[\u4e00-\u9fff]")
_HAN_LINKS = re.compile(r"[为是有得]|等于|需要|[:=]\s")
_HAN_SENTENCE = re.compile(r"[。！；，]|(?<!\d)\.|\.(?!\d)|,\s|;")
_MEASURE = re.compile(r"[\u4e00-\u9fff]{1,8}$")
_END = re.compile(r"(?<!\bp\.m)(?<!\ba\.m)(?:\.(?=\s|$)|\n)", re.IGNORECASE)
_LABEL = re.compile(r"[\s*(]{0,4}[A-Ja-j]\*{0,2}\.\*{0,2}\s")
_MAX = 300
_TAIL = 4000


class Phrase(NamedTuple):
    """A candidate; announced: a sentence says that this is the answer."""

    text: str
    announced: bool


def phrases(response: str) -> list[Phrase]:
    """Candidates, the plainest first; each is short."""
    found: dict[str, Phrase] = {}
    for phrase in _candidates(response.rstrip()[-_TAIL:]):
        text = bare(unstarred(phrase.text.strip().lstrip("#").lstrip()).strip("*").strip()).strip("*").strip()
        if text and len(text) <= _MAX:
            found.setdefault(text, Phrase(text, phrase.announced))
    return list(found.values())


def _candidates(text: str) -> Iterator[Phrase]:
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        rest = text[announced[-1].end() :][: 2 * _MAX].lstrip()
        yield Phrase(_sentence(rest), announced=True)
    line = last_line(text) or ""
    if len(line) > 2 * _MAX:
        return
    if _HAN.search(line):
        yield from _in_chinese(line)
    if len(line.split()) <= 8:
        yield Phrase(line, announced=False)
    links = list(_LINKS.finditer(line))
    signs = [link for link in links if link[0][0] in ":="]
    for link in (*[link for link in links if link[0][0] not in ":="][:-3:-1], *signs[:-2:-1]):
        yield Phrase(line[link.end() :], announced=False)


def _sentence(text: str) -> str:
    """Up to the full stop, which the one of "C. 12" is not."""
    if label := _LABEL.match(text):
        value = _END.split(text[label.end() :], maxsplit=1)[0]
        if looks_like_math(value):
            return label[0] + value
    return _END.split(text, maxsplit=1)[0]


def _in_chinese(line: str) -> Iterator[Phrase]:
    """What the last sentence ends in, without a measure word."""
    sentence = [part for part in _HAN_SENTENCE.split(line) if part.strip(" *")][-1:]
    links = list(_HAN_LINKS.finditer(sentence[0])) if sentence else []
    if links:
        rest = sentence[0][links[-1].end() :].strip(" *")
        yield Phrase(_MEASURE.sub("", rest).strip(" *") or rest, announced=False)
