"""What a grader is: a kind, the fields it reads, where it runs, and one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rgopd.common.errors import InvalidInput
from rgopd.common.settings import explain
from rgopd.verifier.code.toolchains import Toolchains
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.pool import SandboxPool
from rgopd.verifier.symbolic.pool import SymbolicPool
from rgopd.verifier.verdict import Verdict


class Lane(StrEnum):
    """Which threads an item waits for; a slow kind never holds up a fast one."""

    inline = "inline"
    symbolic = "symbolic"
    sandbox = "sandbox"


OnTruncated = Literal["grade", "failed", "error"]
"""What a response cut at the length limit gets: judged as it is, `failed`, or `error` (no reward)."""


class LimitOverrides(BaseModel):
    """An item's `limits`: each may lower or raise the configured default, up to the configured maximum."""

    model_config = ConfigDict(extra="forbid")

    cpu_s: float | None = Field(None, gt=0, le=3600)
    wall_s: float | None = Field(None, gt=0, le=3600)
    memory_mb: int | None = Field(None, ge=32, le=1 << 16)
    processes: int | None = Field(None, ge=1, le=4096)
    file_mb: int | None = Field(None, ge=1, le=1 << 14)
    output_bytes: int | None = Field(None, ge=1, le=1 << 28)

    def over(self, default: Limits, maximum: Limits) -> Limits:
        """The limits to use."""
        asked = {k: v for k, v in self.model_dump().items() if v is not None}
        if "cpu_s" in asked and "wall_s" not in asked:
            asked["wall_s"] = max(default.wall_s, 4 * asked["cpu_s"])
        merged = {**default.as_dict(), **asked}
        return Limits(**{k: min(v, getattr(maximum, k)) for k, v in merged.items()})


class Spec(BaseModel):
    """Base of the fields of a kind. Unknown fields are errors, so that a misspelt `tests` is not ignored."""

    model_config = ConfigDict(extra="forbid", strict=False)

    limits: LimitOverrides | None = None
    truncated: bool = Field(False, description="The response was cut at the length limit.")
    on_truncated: OnTruncated | None = Field(None, description="None: as the service is configured.")


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Tools:
    """What graders may use."""

    sandbox: SandboxPool
    symbolic: SymbolicPool
    default_limits: Limits
    maximum_limits: Limits
    toolchains: Toolchains = field(default_factory=lambda: Toolchains({}))

    def limits(self, spec: Spec) -> Limits:
        """The limits of an item."""
        overrides = spec.limits or LimitOverrides()
        return overrides.over(self.default_limits, self.maximum_limits)


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
