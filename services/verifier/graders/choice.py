"""kind "choice": which option did the response choose?"""

from __future__ import annotations

from pydantic import Field, field_validator

from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.letters import chosen
from rgopd.verifier.verdict import Verdict, failed, passed


class ChoiceSpec(Spec):
    """Fields of a choice item."""

    reference: str = Field(pattern=r"^\(?[A-Za-z]\)?$", description="The right option's letter.")
    options: list[str] = Field([], max_length=26, description="The options' texts, A first: quoting one counts.")

    @field_validator("reference")
    @classmethod
    def _letter(cls, value: str) -> str:
        return value.strip("()").upper()


class ChoiceGrader(Grader[ChoiceSpec]):
    """Multiple choice."""

    kind = "choice"
    lane = Lane.inline
    spec = ChoiceSpec

    def grade(self, response: str, spec: ChoiceSpec, tools: Tools) -> Verdict:
        """Compare letters."""
        letter = chosen(response, spec.options)
        if letter is None:
            return failed("no option found in the response")
        if letter == spec.reference:
            return passed(extracted=letter)
        return failed(f"chose {letter}", extracted=letter)
