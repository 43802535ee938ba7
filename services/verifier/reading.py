"""Finding parts of a response. Every function is linear in the text: no backtracking, since the text is hostile."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKENS = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Box:
    r"""A complete \boxed{...}: where it starts and ends, and its content."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    r"""Every complete \boxed{...} or \fbox{...}, braces balanced, by where it starts."""
    found: list[Box] = []
    open_braces: list[tuple[bool, int, int]] = []  # (of a box?, where it starts, where its content does)
    for token in _TOKENS.finditer(text):
        if token[0] == "}":
            if open_braces:
                is_box, start, content = open_braces.pop()
                if is_box:
                    found.append(Box(start, token.end(), text[content : token.start()]))
        elif token[0].endswith("{") and token[0] != "\\{":
            open_braces.append((len(token[0]) > 1, token.start(), token.end()))
    return sorted(found, key=lambda box: box.start)


def boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...}; None without one."""
    found = boxes(text)
    return found[-1].content if found else None


_THOUGHT = re.compile(r"<(/?)think(?:ing)?>")
_THOUGHT_OUTSIDE_STRINGS = re.compile(r"(?<!['\"])<(/?)think(?:ing)?>")


def after_reasoning(text: str, *, of_program: bool = False) -> str:
    """What follows the last closing think tag; where that is nothing, what stands outside of all pairs of them.

    of_program: a tag behind a quotation mark is in a string of a program.
    """
    tags = list((_THOUGHT_OUTSIDE_STRINGS if of_program else _THOUGHT).finditer(text))
    last = next((tag.end() for tag in reversed(tags) if tag[1]), 0)
    if not last or text[last:].strip():
        return text[last:]
    outside, at, depth = list[str](), 0, 0
    for tag in tags:
        if tag[1]:
            outside, at, depth = ([] if not depth else outside), tag.end(), 0
        elif not depth:
            outside.append(text[at : tag.start()])
            depth = 1
    return "".join(outside)


def last_line(text: str) -> str | None:
    """The last line that is not blank."""
    stripped = text.rstrip()
    return stripped.rpartition("\n")[2].strip() if stripped else None


def between(text: str, opening: str, closing: str) -> str | None:
    """What the last pair of tags encloses."""
    end = text.rfind(closing)
    start = text.rfind(opening, 0, max(0, end))
    return text[start + len(opening) : end] if start >= 0 and end >= 0 else None


def answer_tag(text: str) -> str | None:
    """<answer>...</answer>, the last one."""
    found = between(text, "<answer>", "</answer>")
    return None if found is None else found.strip()
