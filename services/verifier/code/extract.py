"""Finding the program in a response."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FENCE = re.compile(r"[ \t]{0,12}(`{3,12}|~{3,12})[ \t]{0,12}([\w+#.-]{0,40})")

ALIASES = {
    "python": ("python", "py", "python3", ""),
    "bash": ("bash", "sh", "shell", ""),
    "javascript": ("javascript", "js", "node", ""),
    "cpp": ("cpp", "c++", "cc", "cxx", ""),
}


def after_reasoning(response: str) -> str:
    """What follows the last closing think tag."""
    return response.rpartition("</think>")[2]


def program(response: str, language: str = "python", names: Iterable[str] = ()) -> str:
    """The code of a response: the last fenced block of the language, and among several the last that defines one
    of `names`; without any fence, the response itself, byte for byte."""
    text = after_reasoning(response)
    aliases = ALIASES.get(language, (language, ""))
    fenced = blocks_of(text)
    blocks = [body for tag, body in fenced if tag in aliases] or [body for _, body in fenced]
    if not blocks:
        return text
    wanted = list(names)
    for body in reversed(blocks):
        if any(defines(body, name) for name in wanted):
            return body
    return blocks[-1]


def blocks_of(text: str) -> list[tuple[str, str]]:
    """(language, code) of each fenced block, line by line. The closing fence is optional: a response cut at the
    length limit still holds its code."""
    found: list[tuple[str, str]] = []
    fence, tag, lines = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if not fence and match:
            fence, tag, lines = match[1], match[2].lower(), []
        elif fence and match and match[1] == fence and not line[match.end(1) :].strip():
            found.append((tag, "".join(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        found.append((tag, "".join(lines)))
    return found


def defines(code: str, name: str) -> bool:
    """Does the text bind `name` at top level (by its look; the code may not parse)?"""
    escaped = re.escape(name)
    return (
        re.search(rf"^(?:async[ \t]+def|def|class)[ \t]+{escaped}\b|^{escaped}[ \t]*[:=]", code, re.MULTILINE)
        is not None
    )


def complete(prompt: str, code: str, entry_point: str) -> str:
    """HumanEval style: a prompt ending in a function's docstring, and either its body or the whole function."""
    if not prompt:
        return code
    if not defines(code, entry_point):
        return prompt + code
    head = re.split(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", prompt, maxsplit=1, flags=re.MULTILINE)[0]
    future = [line for line in code.splitlines() if line.startswith("from __future__ import")]
    if future:  # has to stay first
        code = "\n".join(line for line in code.splitlines() if not line.startswith("from __future__ import"))
        head = "\n".join(future) + "\n" + head
    return head + "\n" + code
