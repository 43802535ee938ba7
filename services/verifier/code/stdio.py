"""Programs that read standard input and print: one real process a test, on real descriptors."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from rgopd.verifier.code import extract
from rgopd.verifier.code.compare import same_output
from rgopd.verifier.code.outcome import how_it_ended, summarise
from rgopd.verifier.code.spec import CodeSpec
from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.command import Command, SandboxError
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.toolchains import Toolchain
from rgopd.verifier.tools import Tools
from rgopd.verifier.verdict import Status, TestOutcome, Verdict

_TOLERANCE = 1e-6


def grade(response: str, spec: CodeSpec, tools: Tools) -> Verdict:
    """Run every test, or up to the first failure without `partial`."""
    source = extract.program(response, spec.language)
    tests: list[Any] = list(spec.tests)
    limits = tools.limits(spec)
    try:
        program = _python(source) if spec.language == "python" else _compiled(source, spec.language, tools, limits)
    except CompileError as problem:
        outcome = TestOutcome(Status.failed, str(problem))
        return summarise([outcome] * len(tests), len(tests), partial=spec.partial, extracted=source)
    outcomes: list[TestOutcome] = []
    for test in tests:
        outcomes.append(_run(program(test.stdin, limits), test, spec, tools, limits))
        if outcomes[-1].status is not Status.passed and not spec.partial:
            break
    return summarise(outcomes, len(tests), partial=spec.partial, extracted=source)


class CompileError(ValueError):
    """The compiler refused the program: the answer is wrong."""


Program = Callable[[str, Limits], Command]
"""Standard input and limits -> what to run."""


def _python(source: str) -> Program:
    return lambda stdin, limits: Command("main", limits, {"program": source}, stdin=_bytes(stdin))


def _compiled(source: str, language: str, tools: Tools, limits: Limits) -> Program:
    chain = tools.toolchains.by_language[language]
    file, out = chain.file, "main.out"
    names = {"file": file, "out": f"./{out}"}
    content, name = _bytes(source), file
    if chain.compile:
        content, name = _compile(chain, content, names, tools, limits), out
    argv = tuple(part.format(**names) for part in chain.run)
    return lambda stdin, lim: Command("exec", lim, stdin=_bytes(stdin), tool=True, argv=argv, file=(name, content))


def _compile(chain: Toolchain, source: bytes, names: dict[str, str], tools: Tools, limits: Limits) -> bytes:
    """Compile in the sandbox; the program comes out on standard output, since every process has its own files."""
    command = " ".join(shlex.quote(part.format(**names)) for part in chain.compile)
    script = f"{command} >&2 && exec cat {names['out']}"
    bounds = chain.compile_limits(limits)
    end = tools.sandbox.run(
        Command("exec", bounds, tool=True, argv=("/bin/sh", "-c", script), file=(chain.file, source))
    )
    if end.killed == "starved":
        raise SandboxError("the machine was too busy to compile")
    if how_it_ended(end, bounds):
        first = end.stderr.decode("utf-8", "backslashreplace").strip()[:500]
        raise CompileError(f"does not compile: {how_it_ended(end, bounds)}; {first}")
    return end.stdout


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _run(command: Command, test: Any, spec: CodeSpec, tools: Tools, limits: Limits) -> TestOutcome:
    end = tools.sandbox.run(command)
    took = 1000 * end.wall_s
    if end.killed == "starved":
        return TestOutcome(Status.error, "the machine was too busy to run it", took)
    ended = how_it_ended(end, limits)
    if ended:
        return TestOutcome(Status.failed, ended, took)
    try:
        got = end.stdout.decode("utf-8")
    except UnicodeDecodeError as problem:
        return TestOutcome(Status.failed, f"printed bytes that are not UTF-8: {problem}", took)
    if spec.checker:
        return _ask_checker(spec.checker, test, got, tools, limits, took)
    if same_output(got, test.stdout, spec.compare, _TOLERANCE if spec.tolerance is None else spec.tolerance):
        return TestOutcome(Status.passed, "", took)
    reason = f"printed {plain.short(got)}, expected {plain.short(test.stdout)}"
    return TestOutcome(Status.failed, reason, took)


def _ask_checker(source: str, test: Any, got: str, tools: Tools, limits: Limits, took: float) -> TestOutcome:
    """check(stdin, stdout, expected) in a sandbox of its own: it is the dataset's code, on hostile output."""
    call = {"f": "check", "a": [test.stdin, got, test.stdout]}
    payload = {"program": source, "calls": [call], "value_bytes": 1 << 16}
    end = tools.sandbox.run(Command("calls", limits, payload))
    lines = end.channel.split(b"\n")[:-1]
    answer = plain.parse(lines[1]) if len(lines) == 2 else {}
    if type(answer) is not dict:
        answer = {}
    if type(answer.get("v")) is not bool:
        said = answer.get("e") or how_it_ended(end, limits) or "it did not return True or False"
        return TestOutcome(Status.error, f"the checker program failed: {str(said)[:300]}", took)
    return TestOutcome(
        Status.passed if answer["v"] else Status.failed, "" if answer["v"] else "rejected by the checker", took
    )
