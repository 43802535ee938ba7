"""kind "python": your own grader, a Python file with grade(response, **args), run inside the sandbox.

The service's setting `python_graders` maps names to files; items name one. The function returns True or False, a
number in [0, 1] (passed from 1 on), or {"status": ..., "reward": ..., "reason": ...}. What it raises is `error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.common.settings import nearest
from rgopd.verifier.code.outcome import how_it_ended
from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.verdict import Status, Verdict, error, failed, passed, printable


class PythonSpec(Spec):
    """Fields of a python item."""

    grader: str = Field(description="A name from the setting python_graders.")
    args: dict[str, JsonValue] = {}


def read_graders(paths: Mapping[str, Path]) -> dict[str, str]:
    """Name -> source.

    Raises:
        ConfigError: a file cannot be read, or is not Python with a function `grade`.
    """
    sources = {}
    for name, path in paths.items():
        try:
            source = path.read_text(encoding="utf-8")
            compile(source, str(path), "exec")
        except (OSError, ValueError, SyntaxError) as problem:
            raise ConfigError(f"python_graders.{name}: {path}: {problem}") from problem
        if "def grade(" not in source:
            raise ConfigError(f"python_graders.{name}: {path} must define grade(response, **args)")
        sources[name] = source
    return sources


class PythonGrader(Grader[PythonSpec]):
    """Runs the user's function on the response."""

    kind = "python"
    lane = Lane.sandbox
    spec = PythonSpec

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def prepare(self, fields: dict[str, Any]) -> PythonSpec:
        """Refuse names that are not configured, too."""
        spec = super().prepare(fields)
        if spec.grader not in self.sources:
            hint = nearest(spec.grader, self.sources) if self.sources else "; the setting python_graders is empty"
            raise InvalidInput(f"unknown grader {spec.grader!r}{hint}")
        return spec

    def grade(self, response: str, spec: PythonSpec, tools: Tools) -> Verdict:
        """Call it in a process of its own."""
        limits = tools.limits(spec)
        call = {"f": "grade", "a": [response], "k": {k: plain.encode(v) for k, v in spec.args.items()}}
        payload = {"program": self.sources[spec.grader], "calls": [call], "value_bytes": 1 << 16}
        try:
            end = tools.sandbox.run(Command("calls", limits, payload))
        except SandboxError as problem:
            return error(f"sandbox: {problem}")
        return _verdict(_value(end, how_it_ended(end, limits)))


def _value(end: Finished, ended: str) -> Any:
    lines = end.channel.split(b"\n")[:-1]
    try:
        answer = plain.parse(lines[-1]) if lines else {}
        if "v" in answer and len(lines) == 2:
            return plain.decode(answer["v"])
    except plain.NotPlain as problem:
        return problem
    raised = answer.get("e")
    what = ": ".join(map(str, filter(None, raised))) if isinstance(raised, list) else raised
    return ValueError(ended or f"it raised {what}")


def _verdict(value: Any) -> Verdict:
    if isinstance(value, Exception):
        return error(f"the grader failed: {str(value)[:500]}")
    if isinstance(value, bool):
        return passed() if value else failed("the grader said no")
    if isinstance(value, (int, float)) and 0 <= value <= 1:
        return passed() if value >= 1 else failed(f"the grader gave {value:g}", reward=float(value))
    if isinstance(value, dict) and value.get("status") in list(Status):
        return _from_dict(value)
    return error(f"the grader returned {plain.short(value)}; return a bool, a number in [0, 1] or a dict with status")


def _from_dict(value: dict[str, Any]) -> Verdict:
    status, reason = Status(value["status"]), printable(str(value.get("reason", "")))
    if status is Status.error:
        return error(reason)
    reward = value.get("reward", 1.0 if status is Status.passed else 0.0)
    if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not 0 <= reward <= 1:
        return error(f"the grader returned a reward outside [0, 1]: {plain.short(reward)}")
    return Verdict(status, float(reward), reason)
