"""Finding the program in a response."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FENCE = re.compile(r"[ \t]{0,12}(`{3,12}|~{3,12})[ \t]{0,12}([\w+#.-]{0,40})")

ALIASES = {
    "python": ("python", "py", "python3"),
    "bash": ("bash", "sh", "shell"),
    "javascript": ("javascript", "js", "node"),
    "cpp": ("cpp", "c++", "cc", "cxx"),
}
_END_OF_REASONING = re.compile(r"(?<!['\"])</think>")  # not one in a string of the program
_CODE = re.compile(r"[=(;]|^\s{0,80}(?:import|from|def|class|for|while|if|echo)\b", re.MULTILINE)


def after_reasoning(response: str) -> str:
    """What follows the last closing think tag."""
    ends = [match.end() for match in _END_OF_REASONING.finditer(response)]
    return response[ends[-1] :] if ends else response


def program(response: str, language: str = "python", names: Iterable[str] = ()) -> str:
    """The code of a response: the last fenced block tagged with the language, else the last untagged one that looks
    like code (a sample's output does not), else the last; one that defines any of `names` goes before the others of
    all sorts. Without any fence, the response itself, byte for byte."""
    text = after_reasoning(response).removeprefix("\ufeff")
    fenced = blocks_of(text)
    if not fenced:
        return text
    tagged = [body for tag, body in fenced if tag in ALIASES.get(language, (language,))]
    untagged = [body for tag, body in fenced if not tag]
    sorts = [tagged, [body for body in untagged if _CODE.search(body)], untagged, [body for _, body in fenced]]
    wanted = [name.partition(".")[0] for name in names]
    for bodies in sorts:
        for body in reversed(bodies):
            if any(defines(body, name) for name in wanted):
                return body
    return next(bodies for bodies in sorts if bodies)[-1]


def blocks_of(text: str) -> list[tuple[str, str]]:
    """(language, code) of each fenced block, line by line. The closing fence is optional: a response cut at the
    length limit still holds its code."""
    found: list[tuple[str, str]] = []
    fence, tag, indent, lines = "", "", 0, list[str]()
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if not fence and match:
            fence, tag, indent, lines = match[1], match[2].lower(), match.start(1), []
        elif fence and match and match[1] == fence and not line[match.end(1) :].strip():
            found.append((tag, "".join(lines)))
            fence = ""
        elif fence:
            lines.append(line[min(indent, len(line) - len(line.lstrip(" \t"))) :])
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
    name = entry_point.partition(".")[0]  # of Solution.method the class
    if not defines(code, name):
        return prompt + code
    start = rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(name)}\b"
    head = re.split(start, prompt, maxsplit=1, flags=re.MULTILINE)[0]
    future = [line for line in code.splitlines() if line.startswith("from __future__ import")]
    if future:  # has to stay first
        code = "\n".join(line for line in code.splitlines() if not line.startswith("from __future__ import"))
        head = "\n".join(future) + "\n" + head
    return head + "\n" + code
