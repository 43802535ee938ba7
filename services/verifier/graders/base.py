"""What a grader is: a kind, the fields it reads, where it runs, and one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationError

from rgopd.common.errors import InvalidInput
from rgopd.common.settings import explain
from rgopd.verifier.spec import Spec
from rgopd.verifier.tools import Tools
from rgopd.verifier.verdict import Verdict


class Lane(StrEnum):
    """Which threads an item waits for; a slow kind never holds up a fast one."""

    inline = "inline"
    symbolic = "symbolic"
    sandbox = "sandbox"


S = TypeVar("S", bound=Spec)


class Grader(ABC, Generic[S]):
    """One kind. Stateless; `grade` is called from many threads."""

    kind: ClassVar[str]
    lane: ClassVar[Lane]
    spec: ClassVar[type[Spec]]

    def prepare(self, fields: dict[str, Any]) -> S:
        """Check an item's fields before it is queued.

        Raises:
            InvalidInput: a field is missing, unknown or wrong; the text says which and what to do.
        """
        try:
            return self.spec.model_validate(fields)  # type: ignore[return-value]
        except ValidationError as problem:
            raise InvalidInput(_advice(self.spec, problem)) from problem

    def lane_of(self, spec: S) -> Lane:
        """Where this item runs; compositions depend on their parts."""
        return self.lane

    @abstractmethod
    def grade(self, response: str, spec: S, tools: Tools) -> Verdict:
        """Judge one response."""


def _advice(spec: type[Spec], problem: ValidationError) -> str:
    missing = [".".join(map(str, e["loc"])) for e in problem.errors() if e["type"] == "missing"]
    if missing:
        return f"missing field {', '.join(map(repr, missing))}; add it to the item"
    return explain(spec, problem)


__all__ = ["Grader", "Lane", "Spec", "Tools"]
