"""kind "code": does the program in the response pass the tests? Dispatch; the ways of testing are in `code/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rgopd.common.errors import InvalidInput
from rgopd.common.settings import nearest
from rgopd.verifier.code import asserts, calls, plans, stdio
from rgopd.verifier.code.missing import as_missing_library
from rgopd.verifier.code.spec import CallTest, CodeSpec, StdioTest
from rgopd.verifier.graders.base import Grader, Lane
from rgopd.verifier.sandbox.command import SandboxError
from rgopd.verifier.tools import Tools
from rgopd.verifier.verdict import Verdict, error


class CodeGrader(Grader[CodeSpec]):
    """Runs the program in the sandbox and compares outside of it."""

    kind = "code"
    lane = Lane.sandbox
    spec = CodeSpec

    def __init__(self, languages: Sequence[str] = ("python",)) -> None:
        self.languages = languages

    def prepare(self, fields: dict[str, Any]) -> CodeSpec:
        """Refuse languages that are not installed here, too."""
        spec = super().prepare(fields)
        if spec.language not in self.languages:
            raise InvalidInput(f"language {spec.language!r} is not available{nearest(spec.language, self.languages)}")
        if spec.style == "asserts":
            plans.wanted_names(spec.test_sources)
        return spec

    def grade(self, response: str, spec: CodeSpec, tools: Tools) -> Verdict:
        """Dispatch on the tests' style."""
        style = {"asserts": asserts.grade, "calls": calls.grade, "stdio": stdio.grade}[spec.style]
        try:
            verdict = style(response, spec, tools)
        except SandboxError as problem:
            return error(f"sandbox: {problem}")
        return as_missing_library(verdict, tests="\n".join(spec.test_sources)) if spec.language == "python" else verdict


__all__ = ["CallTest", "CodeGrader", "CodeSpec", "StdioTest"]
