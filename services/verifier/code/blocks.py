"""Where code stands in a response: fenced blocks, tags, and lines of code between lines of prose. One pass each."""

from __future__ import annotations

import re
from typing import NamedTuple

_FENCE = re.compile(
    r"[ \t]{0,12}(?:(?:[-*+]|\d{1,3}[.)])[ \t]{1,4})?(`{3,12}|~{3,12})[ \t]{0,12}\{?\.?([\w+#.-]{0,40})"
)
_QUOTES = re.compile(r"\\.|\"\"\"|'''|[\"'#]")
_MAX_QUOTED = 1 << 18
_TAGS = re.compile(
    r"\[(PYTHON|CODE)\]\n?(.*?)(?:\[/\1\]|\Z)|<(code|python|solution|answer)\b[^<>\n]{0,40}>\n?(.*?)(?:</\3>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_TAG_OPENS = re.compile(r"\[(?:PYTHON|CODE)\]|<(?:code|python|solution|answer)\b", re.IGNORECASE)
_PYTHON_TAG = re.compile(r"(?:python|py)[\d.]{0,5}")
_START = (
    r"from[ \t]+[\w.]+[ \t]+import\b|import[ \t]+[\w.]+(?:[ \t]*(?:,|as\b|;|#)|[ \t]*$)"
    r"|(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[(:]|@\w[\w.]*(?:\(|[ \t]*$)|if[ \t]+__name__"
)
_STARTS = re.compile(_START, re.MULTILINE)
_STATEMENT = re.compile(
    _START + r"|[A-Za-z_][\w.]*(?:\[[^\]\n]{0,80}\])?(?:[ \t]*,[ \t]*\w+){0,8}"
    r"[ \t]*(?:[-+*/%|&^]|//|\*\*|<<|>>)?=(?!=)"
    r"|(?:for|while|if|elif|with|try|else|except|finally|match)\b[^\n]{0,300}:[ \t]*(?:#.*)?$"
    r"|(?:return|raise|assert|global|nonlocal|del|yield|pass|break|continue)\b"
    r"|[A-Za-z_][\w.]{0,80}\([^\n]*\)?[ \t]*(?:#.*)?$|[)\]}]|#",
    re.MULTILINE,
)


class Block(NamedTuple):
    """The language's tag in lower case ("" without one), and the code."""

    tag: str
    body: str


def fenced(text: str) -> list[Block]:
    """Each fenced block, line by line. The closing fence is optional: a response cut at the length limit still holds
    its code. A fence in a triple-quoted string of Python closes nothing, unless that string never ends."""
    blocks, whole = _fenced(text, quoted=len(text) < _MAX_QUOTED)
    return blocks if whole else _fenced(text, quoted=False)[0]


def _fenced(text: str, *, quoted: bool) -> tuple[list[Block], bool]:
    found: list[Block] = []
    fence, tag, indent, lines, inside = "", "", 0, list[str](), ""
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if not fence and match:
            fence, tag, indent, lines, inside = match[1], _language(match[2]), match.start(1), [], ""
        elif fence and not inside and _closes(line, match, fence):
            found.append(Block(tag, "".join(lines)))
            fence = ""
        elif fence and not inside and match and match[1][0] == fence[0] and _PYTHON_TAG.fullmatch(match[2].lower()):
            found.append(Block(tag, "".join(lines)))  # nobody closed it
            fence, tag, indent, lines = match[1], _language(match[2]), match.start(1), []
        elif fence:
            lines.append(line[min(indent, len(line) - len(line.lstrip(" \t"))) :])
            if quoted and (tag == "python" or not tag):
                inside = _open_string(line, inside)
    if fence:
        found.append(Block(tag, "".join(lines)))
    return found, not inside


def _closes(line: str, match: re.Match[str] | None, fence: str) -> bool:
    return (
        match is not None
        and match[1].startswith(fence[0])
        and len(match[1]) >= len(fence)
        and line.lstrip(" \t").startswith(fence[0])
        and not line[match.end(1) :].strip()
    )


def _open_string(line: str, inside: str) -> str:
    """The triple quotes that are open after the line; a plain string ends with its line."""
    single = ""
    for token in _QUOTES.finditer(line):
        sign = token[0]
        if inside:
            inside = "" if sign == inside else inside
        elif single:
            single = "" if sign == single else single
        elif sign == "#":
            break
        elif len(sign) == 3:
            inside = sign
        elif sign in ('"', "'"):
            single = sign
    return inside


def _language(tag: str) -> str:
    low = tag.lower()
    if _PYTHON_TAG.fullmatch(low) or low.endswith(".py"):
        return "python"
    return low


def tagged(text: str) -> list[Block]:
    """What [PYTHON], <code> and their like enclose."""
    if not _TAG_OPENS.search(text):
        return []
    return [Block("", (found[2] or found[4] or "").strip("\n") + "\n") for found in _TAGS.finditer(text)]


def unfenced(text: str, *, any_statement: bool) -> list[Block]:
    """Runs of lines that are Python by their look: from an import, a definition or a decorator (`any_statement`: or
    whatever looks like a statement) to the line before the next prose."""
    starts = _STATEMENT if any_statement else _STARTS
    found: list[Block] = []
    lines: list[str] = []
    inside = ""
    for line in text.splitlines(keepends=True):
        if not lines and not starts.match(line):
            continue
        blank = not line.strip()
        if lines and not inside and not (blank or line[0] in " \t" or _STATEMENT.match(line) or _goes_on(lines)):
            found.append(Block("", "".join(lines).rstrip() + "\n"))
            lines = [line] if starts.match(line) else []
        else:
            lines.append(line)
        inside = _open_string(line, inside) if lines else ""
    if lines:
        found.append(Block("", "".join(lines).rstrip() + "\n"))
    return found


def _goes_on(lines: list[str]) -> bool:
    """The last line ends in the middle of something."""
    return lines[-1].rstrip().endswith(("\\", "(", "[", "{", ","))
