"""kinds "all_of" and "weighted": several checks on one response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from rgopd.common.errors import InvalidInput
from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.verdict import Status, TestOutcome, Verdict, error, failed, passed

Lookup = Callable[[str], Grader[Any]]
_LANES = [Lane.inline, Lane.symbolic, Lane.sandbox]  # a composition runs where its heaviest part does
_DEEPEST = 4


class Part(BaseModel):
    """A check: a kind with its fields, and its weight in `weighted`."""

    model_config = ConfigDict(extra="allow")

    kind: str
    weight: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)

    _grader: Grader[Any] = PrivateAttr()
    _spec: Spec = PrivateAttr()

    def resolve(self, lookup: Lookup) -> None:
        """Find the grader and check the fields."""
        self._grader = lookup(self.kind)
        self._spec = self._grader.prepare(dict(self.model_extra or {}))

    @property
    def lane(self) -> Lane:
        """Where this part runs."""
        return self._grader.lane_of(self._spec)

    def grade(self, response: str, tools: Tools) -> Verdict:
        """Judge by this part."""
        return self._grader.grade(response, self._spec, tools)


class PartsSpec(Spec):
    """Fields of a composition."""

    parts: list[Part] = Field(min_length=1, max_length=32)
    threshold: float = Field(1.0, gt=0, le=1, description="`weighted`: from this reward on, the status is passed.")


class _Composition(Grader[PartsSpec]):
    lane = Lane.inline
    spec = PartsSpec

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup

    def prepare(self, fields: dict[str, Any]) -> PartsSpec:
        """Check every part, to a bounded depth."""
        if _deeper_than(fields, _DEEPEST):
            raise InvalidInput(f"compositions nest more than {_DEEPEST} deep")
        spec = super().prepare(fields)
        for number, part in enumerate(spec.parts):
            try:
                part.resolve(self.lookup)
            except InvalidInput as problem:
                raise InvalidInput(f"parts.{number}: {problem}") from problem
        return spec

    def lane_of(self, spec: PartsSpec) -> Lane:
        """That of the heaviest part."""
        return max((part.lane for part in spec.parts), key=_LANES.index)


def _deeper_than(fields: Any, limit: int) -> bool:
    if not isinstance(fields, dict) or not isinstance(parts := fields.get("parts"), list):
        return False
    return bool(parts) and (limit == 0 or any(_deeper_than(part, limit - 1) for part in parts))


def _outcome(verdict: Verdict) -> TestOutcome:
    return TestOutcome(verdict.status, verdict.reason, verdict.duration_ms)


class AllOfGrader(_Composition):
    """Passed when every part is. A failed part decides even where another could not tell."""

    kind = "all_of"

    def grade(self, response: str, spec: PartsSpec, tools: Tools) -> Verdict:
        """Judge in order; stop at the first failure."""
        unclear: Verdict | None = None
        verdicts: list[Verdict] = []
        for number, part in enumerate(spec.parts):
            verdict = part.grade(response, tools)
            verdicts.append(verdict)
            if verdict.status is Status.failed:
                reason = f"parts.{number} ({part.kind}): {verdict.reason}"
                return failed(reason, extracted=verdict.extracted, tests=tuple(map(_outcome, verdicts)))
            if verdict.status is Status.error:
                unclear = unclear or verdict
        tests = tuple(map(_outcome, verdicts))
        if unclear is not None:
            return error(unclear.reason, tests=tests)
        return passed(extracted=next((v.extracted for v in verdicts if v.extracted), None), tests=tests)


class WeightedGrader(_Composition):
    """The reward is the weighted mean of the parts' rewards; one part that cannot tell makes the whole `error`."""

    kind = "weighted"

    def grade(self, response: str, spec: PartsSpec, tools: Tools) -> Verdict:
        """Judge all."""
        verdicts = [part.grade(response, tools) for part in spec.parts]
        tests = tuple(map(_outcome, verdicts))
        unclear = next((v for v in verdicts if v.status is Status.error), None)
        if unclear is not None:
            return error(unclear.reason, tests=tests)
        total = sum(part.weight for part in spec.parts)
        weighed = sum(p.weight * (v.reward or 0.0) for p, v in zip(spec.parts, verdicts, strict=True))
        reward = min(1.0, weighed / total)
        status = Status.passed if reward >= spec.threshold - 1e-12 else Status.failed
        reasons = "; ".join(f"{p.kind}: {v.reason}" for p, v in zip(spec.parts, verdicts, strict=True) if v.reason)
        extracted = next((v.extracted for v in verdicts if v.extracted), None)
        return Verdict(status, reward, reasons[:2000], extracted, tests)
