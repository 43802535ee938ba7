"""The fields of a code item, and the three ways of testing that follow from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from rgopd.verifier.code.compare import Mode
from rgopd.verifier.spec import Spec


class StdioTest(BaseModel):
    """A run with this standard input has to print this."""

    model_config = ConfigDict(extra="forbid")

    stdin: str = ""
    stdout: str


class CallTest(BaseModel):
    """entry_point(*args, **kwargs) has to return this."""

    model_config = ConfigDict(extra="forbid")

    args: list[JsonValue] = []
    kwargs: dict[str, JsonValue] = {}
    expected: JsonValue


class CodeSpec(Spec):
    """Fields of a code item: one of `tests` (asserts, calls, or stdin/stdout) or `test` (HumanEval's check)."""

    tests: list[str] | list[CallTest] | list[StdioTest] = []
    test: str = Field("", description="Code that defines check(candidate); needs entry_point.")
    entry_point: str = Field(
        "",
        pattern=r"^[A-Za-z_][\w.]*$|^$",
        description="The function to test. A method of `class Solution` is found by its own name, too.",
    )
    prompt: str = Field("", description="HumanEval: the start of the function, before the response.")
    setup: str = Field("", description="Imports, classes and helpers for tests and program.")
    language: str = "python"
    compare: Mode = "whitespace"
    tolerance: float | None = Field(None, ge=0, allow_inf_nan=False)
    checker: str = Field("", description="Python source of check(stdin, stdout, expected) -> bool.")
    partial: bool = Field(False, description="Reward the share of passed tests, and run all of them.")

    @field_validator("entry_point", mode="before")
    @classmethod
    def _dotted(cls, name: Any) -> Any:
        """Solution().method, as some data sets say it, is Solution.method: every call is one of a new object."""
        return name.replace("()", "").strip() if isinstance(name, str) else name

    @field_validator("tests", mode="before")
    @classmethod
    def _one_kind_of_tests(cls, tests: Any) -> Any:
        """Say which shape is wrong, rather than why each of three unions did not fit."""
        if not isinstance(tests, list):
            raise ValueError("tests must be a list of assert strings, of {stdin, stdout} or of {args, expected}")
        if all(isinstance(t, str) for t in tests):
            return tests
        if not all(isinstance(t, dict) for t in tests):
            raise ValueError("tests must be all strings or all objects")
        model: type[BaseModel] = StdioTest if "stdout" in tests[0] or "stdin" in tests[0] else CallTest
        return [model.model_validate(t) for t in tests]

    @model_validator(mode="after")
    def _complete(self) -> CodeSpec:
        if not self.tests and not self.test:
            raise ValueError("a code item needs 'tests' (a non-empty list) or 'test' with 'entry_point'")
        if self.test and not self.entry_point:
            raise ValueError("'test' needs 'entry_point', the name of the function it checks")
        if self.style == "calls" and not self.entry_point:
            raise ValueError("tests with args need 'entry_point', the name of the function to call")
        if self.language != "python" and self.style != "stdio":
            raise ValueError(f"language {self.language!r} needs tests with stdin and stdout")
        return self

    @property
    def entry_names(self) -> tuple[str, ...]:
        """What a program may define to be the answer."""
        head = self.entry_point.partition(".")[0]
        return tuple(dict.fromkeys((head, self.entry_point.rpartition(".")[2], "Solution"))) if head else ()

    @property
    def test_sources(self) -> tuple[str, ...]:
        """All the test code of the style "asserts"."""
        return (self.setup, self.test, *map(str, self.tests))

    @property
    def style(self) -> Literal["asserts", "calls", "stdio"]:
        """Which way of testing."""
        if self.test or isinstance(self.tests[0], str):
            return "asserts"
        return "calls" if isinstance(self.tests[0], CallTest) else "stdio"
