"""kind "math": is the final answer of the response equal to the reference?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field, field_validator

from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.symbolic.pool import DeadlineExceeded, SymbolicError
from rgopd.verifier.verdict import Verdict, error, failed, passed

_MAKERS: dict[str, Callable[..., Verdict]] = {"passed": passed, "failed": failed, "error": error}


class MathSpec(Spec):
    """Fields of a math item."""

    reference: str | list[str] = Field(description="The answer in LaTeX or plain text, or several that are all right.")
    extract: Literal["auto", "boxed", "hashes", "answer_tag", "last_line", "last_number"] = Field(
        "auto", description="Where the answer stands; auto: boxed, announced, or the last formula or number."
    )
    tolerance: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="For numbers: relative, absolute below 1."
    )

    @field_validator("reference")
    @classmethod
    def _not_empty(cls, value: str | list[str]) -> str | list[str]:
        references = [value] if isinstance(value, str) else value
        if not references or not all(r.strip() for r in references):
            raise ValueError("the reference is empty; give the right answer")
        return value


class MathGrader(Grader[MathSpec]):
    """Judged in a worker process; a hang or a crash is `error`, as is a reference that cannot be parsed."""

    kind = "math"
    lane = Lane.symbolic
    spec = MathSpec

    def grade(self, response: str, spec: MathSpec, tools: Tools) -> Verdict:
        """Ask a worker."""
        question = {
            "references": [spec.reference] if isinstance(spec.reference, str) else spec.reference,
            "response": response,
            "extract": spec.extract,
            "tolerance": spec.tolerance,
        }
        try:
            answer = tools.symbolic.ask(question)
        except DeadlineExceeded as late:
            return error(f"deadline: judging this answer {late}")
        except SymbolicError as crash:
            return error(f"crash: {crash}")
        return _MAKERS[answer["status"]](answer["reason"], extracted=answer.get("extracted"))
