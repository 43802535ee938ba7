"""kind "exact": is the answer this text?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.reading import after_reasoning, answer_tag, boxed, last_line
from rgopd.verifier.sandbox.plain import short
from rgopd.verifier.verdict import Verdict, failed, passed


class ExactSpec(Spec):
    """Fields of an exact item."""

    reference: str | list[str] = Field(description="The answer, or several that are all right.")
    extract: Literal["all", "last_line", "boxed", "answer_tag", "hashes"] = "all"
    ignore_case: bool = False
    ignore_whitespace: bool = Field(True, description="Runs of blanks count as one, outer ones not at all.")


class ExactGrader(Grader[ExactSpec]):
    """Text equality after extraction."""

    kind = "exact"
    lane = Lane.inline
    spec = ExactSpec

    def grade(self, response: str, spec: ExactSpec, tools: Tools) -> Verdict:
        """Extract and compare."""
        answer = _extract(response, spec.extract)
        if answer is None:
            return failed(f"no {spec.extract} found in the response")
        references = [spec.reference] if isinstance(spec.reference, str) else spec.reference
        if any(_normal(answer, spec) == _normal(r, spec) for r in references):
            return passed(extracted=answer)
        return failed(f"got {short(answer)}", extracted=answer)


def _extract(response: str, how: str) -> str | None:
    text = after_reasoning(response)
    if how == "last_line":
        return last_line(text)
    if how == "boxed":
        return boxed(text)
    if how == "answer_tag":
        return answer_tag(text)
    if how == "hashes":
        head, found, tail = text.rpartition("####")
        return tail.strip().partition("\n")[0] if found else None
    return text


def _normal(text: str, spec: ExactSpec) -> str:
    if spec.ignore_whitespace:
        text = " ".join(text.split())
    return text.casefold() if spec.ignore_case else text
