"""kind "constraints": instructions that can be checked on the text, after IFEval (arXiv 2311.07911)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.verdict import Status, TestOutcome, Verdict, failed, passed

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")  # a run's last mark; with [.!?]+ each mark would start a try
_BULLET = re.compile(r"^[ \t]{0,8}(?:[*•+-]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)

Name = Literal[
    "words", "sentences", "paragraphs", "bullets", "characters", "keyword", "keywords", "forbidden", "letter",
    "starts_with", "ends_with", "lowercase", "uppercase", "capital_words", "no_commas", "json", "quoted", "title",
    "highlights", "sections", "postscript", "placeholders", "two_responses",
]  # fmt: skip


class Constraint(BaseModel):
    """One instruction. Counting ones take `at_least`, `at_most`; others `text` or `texts`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    at_least: int | None = Field(None, ge=0)
    at_most: int | None = Field(None, ge=0)
    text: str = ""
    texts: list[str] = []

    @model_validator(mode="after")
    def _complete(self) -> Constraint:
        counts, needs_text = (
            self.name in _COUNTS,
            self.name in ("keyword", "letter", "starts_with", "ends_with", "sections"),
        )
        if counts and self.at_least is None and self.at_most is None:
            raise ValueError(f"constraint {self.name!r} needs at_least or at_most")
        if needs_text and not self.text:
            raise ValueError(f"constraint {self.name!r} needs text")
        if self.name in ("keywords", "forbidden") and not self.texts:
            raise ValueError(f"constraint {self.name!r} needs texts")
        return self


class ConstraintsSpec(Spec):
    """Fields of a constraints item."""

    constraints: list[Constraint] = Field(min_length=1)
    loose: bool = Field(False, description="As IFEval: also without the first or last line, or asterisks.")
    partial: bool = Field(False, description="Reward the share of constraints that hold.")


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text.casefold()))


_COUNTS: dict[str, Callable[[str, Constraint], int]] = {
    "words": lambda t, _: len(_WORD.findall(t)),
    "sentences": lambda t, _: len(_SENTENCE_END.findall(t)) or int(bool(t.strip())),
    "paragraphs": lambda t, _: sum(bool(p.strip()) for p in t.replace("***", "\n\n").split("\n\n")),
    "bullets": lambda t, _: len(_BULLET.findall(t)),
    "characters": lambda t, _: len(t),
    "keyword": lambda t, c: _occurrences(t, c.text),
    "letter": lambda t, c: t.casefold().count(c.text.casefold()),
    "capital_words": lambda t, _: sum(w.isupper() for w in _WORD.findall(t)),
    "highlights": lambda t, _: sum(bool(part.strip()) for part in t.replace("**", "*").split("*")[1::2]),
    "sections": lambda t, c: t.count(c.text),
    "placeholders": lambda t, _: len(re.findall(r"\[[^\[\]]{1,200}\]", t)),
}


def _is_json(text: str) -> bool:
    try:
        json.loads(text.strip().removeprefix("```json").removeprefix("```").removesuffix("```"))
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(text: str) -> bool:
    start = text.find("<<")
    end = text.find(">>", start)
    return 0 <= start < end and bool(text[start + 2 : end].strip())


_TESTS: dict[str, Callable[[str, Constraint], bool]] = {
    "keywords": lambda t, c: all(_occurrences(t, word) for word in c.texts),
    "forbidden": lambda t, c: not any(_occurrences(t, word) for word in c.texts),
    "starts_with": lambda t, c: t.strip().casefold().startswith(c.text.strip().casefold()),
    "ends_with": lambda t, c: t.strip().strip('"').casefold().endswith(c.text.strip().casefold()),
    "lowercase": lambda t, _: t == t.lower() and t != t.upper(),
    "uppercase": lambda t, _: t == t.upper() and t != t.lower(),
    "no_commas": lambda t, _: "," not in t,
    "json": lambda t, _: _is_json(t),
    "quoted": lambda t, _: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    "title": lambda t, _: _has_title(t),
    "postscript": lambda t, c: (c.text or "P.S.").casefold() in t.casefold(),
    "two_responses": lambda t, _: len({p.strip() for p in t.split("******") if p.strip()}) == 2,
}


def holds(text: str, constraint: Constraint) -> bool:
    """Does the text follow one instruction? An empty text follows none."""
    if not text.strip():
        return False
    count = _COUNTS.get(constraint.name)
    if count is None:
        return _TESTS[constraint.name](text, constraint)
    number = count(text, constraint)
    return (constraint.at_least is None or number >= constraint.at_least) and (
        constraint.at_most is None or number <= constraint.at_most
    )


def _loose_forms(text: str) -> list[str]:
    lines = text.strip().split("\n")
    cut = ["\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])]
    return [form for base in (text, *cut) for form in (base, base.replace("*", ""))]


class ConstraintsGrader(Grader[ConstraintsSpec]):
    """Instruction following."""

    kind = "constraints"
    lane = Lane.inline
    spec = ConstraintsSpec

    def grade(self, response: str, spec: ConstraintsSpec, tools: Tools) -> Verdict:
        """Check each."""
        forms = _loose_forms(response) if spec.loose else [response]
        results: list[TestOutcome] = []
        for constraint in spec.constraints:
            good = any(holds(form, constraint) for form in forms)
            described: dict[str, Any] = constraint.model_dump(exclude_defaults=True)
            results.append(
                TestOutcome(Status.passed if good else Status.failed, "" if good else f"broken: {described}")
            )
        broken = [r for r in results if r.status is Status.failed]
        if not broken:
            return passed(tests=tuple(results))
        reward = 1 - len(broken) / len(results) if spec.partial else 0.0
        return failed(broken[0].reason, reward=reward, tests=tuple(results))
