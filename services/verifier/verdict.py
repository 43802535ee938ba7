"""The three-valued answer. `error` means the verifier could not tell; it never carries a reward."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Of a verdict, and of each test in it."""

    passed = "passed"
    failed = "failed"
    error = "error"


def printable(text: str, limit: int = 2000) -> str:
    """Bounded, and valid UTF-8 when encoded: hostile output may hold lone surrogates."""
    if len(text) > limit:
        text = text[:limit] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class TestOutcome:
    """One test of a code item."""

    __test__ = False  # not a pytest class

    status: Status
    reason: str = ""
    duration_ms: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of one item. `reward` is in [0, 1]; None exactly when status is `error`."""

    status: Status
    reward: float | None
    reason: str = ""
    extracted: str | None = None
    tests: tuple[TestOutcome, ...] = field(default=())
    duration_ms: float = 0.0
    id: str = ""

    def __post_init__(self) -> None:
        if (self.reward is None) != (self.status is Status.error):
            raise ValueError("a verdict has a reward exactly when its status is not error")
        if self.reward is not None and not 0.0 <= self.reward <= 1.0:  # not-a-number neither
            raise ValueError(f"a reward is in [0, 1], not {self.reward}")

    def but(self, **changes: Any) -> Verdict:
        """A copy with changes."""
        return replace(self, **changes)


def passed(reason: str = "", *, extracted: str | None = None, tests: tuple[TestOutcome, ...] = ()) -> Verdict:
    """Right: reward 1."""
    return Verdict(Status.passed, 1.0, printable(reason), _extracted(extracted), tests)


def failed(
    reason: str, *, reward: float = 0.0, extracted: str | None = None, tests: tuple[TestOutcome, ...] = ()
) -> Verdict:
    """Wrong: reward 0, or a part of 1 where partial credit was asked for."""
    return Verdict(Status.failed, reward, printable(reason), _extracted(extracted), tests)


def error(reason: str, *, extracted: str | None = None, tests: tuple[TestOutcome, ...] = ()) -> Verdict:
    """The verifier could not tell: no reward."""
    return Verdict(Status.error, None, printable(reason), _extracted(extracted), tests)


def _extracted(text: str | None) -> str | None:
    return None if text is None else printable(text, 20_000)
