"""kind "format": does the response have the asked-for form, whatever it says?"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.reading import answer_tag, boxed
from rgopd.verifier.verdict import Verdict, failed, passed

Requirement = Literal["boxed", "one_boxed", "hashes", "think", "answer_tag", "code_block", "json"]


class FormatSpec(Spec):
    """Fields of a format item."""

    require: list[Requirement] = Field(min_length=1)
    max_chars: int | None = Field(None, ge=1)


def _one_think(text: str) -> bool:
    """Exactly one <think> block, at the start, closed, with an answer after it."""
    if text.count("<think>") > 1 or text.count("</think>") != 1 or not text.lstrip().startswith("<think>"):
        return False
    return bool(text.partition("</think>")[2].strip())


def _is_json(text: str) -> bool:
    body = text.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2].rpartition("```")[0]
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


_CHECKS: dict[str, Callable[[str], bool]] = {
    "boxed": lambda t: boxed(t) is not None,
    "one_boxed": lambda t: t.count("\\boxed") == 1 and boxed(t) is not None,
    "hashes": lambda t: "####" in t and bool(t.rpartition("####")[2].strip()),
    "think": _one_think,
    "answer_tag": lambda t: t.count("<answer>") == 1 and bool(answer_tag(t)),
    "code_block": lambda t: t.count("```") >= 2,
    "json": _is_json,
}


class FormatGrader(Grader[FormatSpec]):
    """Form without content; usually a part of a `weighted` item."""

    kind = "format"
    lane = Lane.inline
    spec = FormatSpec

    def grade(self, response: str, spec: FormatSpec, tools: Tools) -> Verdict:
        """All requirements have to hold."""
        missing: list[str] = [name for name in spec.require if not _CHECKS[name](response)]
        if spec.max_chars is not None and len(response) > spec.max_chars:
            missing.append(f"at most {spec.max_chars} characters")
        return failed(f"missing: {', '.join(missing)}") if missing else passed()
