"""Figures named by their points, and columns written as binomials."""

from __future__ import annotations

import re

_NAMED = re.compile(
    r"\\(triangle|angle|measuredangle|odot|square|parallelogram|overline|overarc|widehat)\s?\{?\s?"
    r"([A-Z][A-Z'_\d\s]{0,30})\}?"
)
_POINTS = re.compile(r"[A-Z][^A-Z]*")
_BINOMIAL = re.compile(
    r"\\[dt]?binom\s?\{([^{}]{1,80})\}\s?\{([^{}]{1,80})\}|\{([^{}\\]{1,80})\\choose([^{}\\]{1,80})\}"
)


def same_figure(gold: str, answer: str, equal: object) -> bool | None:
    r"""\triangle ABC is \triangle BCA, \angle ABC is \angle CBA; a parser would take their letters for factors. None
    where one of the two is no such name."""
    found = [_NAMED.fullmatch(text.strip(" $.")) for text in (gold, answer)]
    if found[0] is None or found[1] is None:
        return None
    names = [_POINTS.findall(one[2].replace(" ", "")) for one in found if one is not None]
    if found[0][1] != found[1][1]:
        return False
    if found[0][1] == "triangle":
        return sorted(names[0]) == sorted(names[1])
    turns = [names[1]]
    if found[0][1] in ("square", "parallelogram"):  # a polygon begins at any of its corners
        turns = [names[1][n:] + names[1][:n] for n in range(len(names[1]))]
    return names[0] in turns or names[0][::-1] in turns


def column(latex: str) -> str:
    r"""\binom{1}{-2} as the column that it is where a vector is asked for; anything else as it is."""
    found = _BINOMIAL.fullmatch(latex.strip(" $"))
    if found is None:
        return latex
    return f"\\begin{{pmatrix}}{found[1] or found[3]}\\\\{found[2] or found[4]}\\end{{pmatrix}}"
