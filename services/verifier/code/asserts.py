"""Assert lists (MBPP) and check functions (HumanEval)."""

from __future__ import annotations

import ast
import secrets
from typing import Any

from rgopd.verifier import testfiles
from rgopd.verifier.code import plans
from rgopd.verifier.code.calls import run_calls
from rgopd.verifier.code.entry import program_of
from rgopd.verifier.code.outcome import how_it_ended, summarise
from rgopd.verifier.code.spec import CodeSpec
from rgopd.verifier.code.surroundings import touched
from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.command import Command, Finished
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.tools import Tools
from rgopd.verifier.verdict import Status, TestOutcome, Verdict

_OUTCOMES_BYTES = 4 << 20
_THREADS = 256  # for tests that start some, and as many that stand for them in the program


def grade(response: str, spec: CodeSpec, tools: Tools) -> Verdict:
    """Plain calls where every assert is one, else a checker in a process beside the program's."""
    tests = [_checked(spec)] if spec.test else [str(t) for t in spec.tests]
    program = program_of(response, spec)
    limits = tools.limits(spec)
    simple = plans.as_calls(tuple(tests)) if not spec.setup and not spec.test else None
    if simple is not None:
        outcomes = _as_calls(program, simple, tools, limits, spec.partial)
    if simple is None or any("has no plain form" in outcome.reason for outcome in outcomes):  # an object: ask it
        outcomes = _with_checker(program, tests, spec, tools, limits)
    return summarise(outcomes, len(tests), partial=spec.partial, extracted=program)


def _checked(spec: CodeSpec) -> str:
    """The source with `check`, and its call; a file of unittest's cases or test functions runs as it is."""
    defines_check = "check" in plans.bound_names(spec.test)
    entry = "__entry_point__" if "." in spec.entry_point else spec.entry_point
    return f"{spec.test}\ncheck({entry})" if defines_check else spec.test


def _as_calls(
    program: str, tests: tuple[plans.CallTest, ...], tools: Tools, limits: Limits, go_on: bool
) -> list[TestOutcome]:
    def judge(index: int, value: Any) -> str:
        test = tests[index]
        right = value is test.expected if test.identity else value == test.expected
        return "" if right else f"returned {plain.short(value)}, expected {plain.short(test.expected)}"

    return run_calls(program, [t.request for t in tests], judge, tools, limits, go_on=go_on)


def _with_checker(program: str, tests: list[str], spec: CodeSpec, tools: Tools, limits: Limits) -> list[TestOutcome]:
    outcomes: list[TestOutcome] = []
    while len(outcomes) < len(tests):
        left = tests[len(outcomes) :]
        around = touched((spec.prompt, spec.setup, *left))
        key = secrets.token_hex(8)
        most = limits.processes + (_THREADS if "threads" in around["aspects"] else 0)
        candidate, checker = _candidate_payload(program, spec, limits), _checker_payload(left, spec, limits)
        checker |= {"key": key, "modules": around["modules"]}
        ends = tools.sandbox.run_pair(
            Command(
                "calls",
                limits._replace(processes=most),
                candidate | {"aspects": around["aspects"]},
                files=around["files"],
            ),
            Command(
                "check",
                _checker_limits(limits)._replace(processes=most),
                checker | {"aspects": around["aspects"]},
                files=around["files"],
            ),
        )
        more = _read(*ends, limits, len(left), key)
        outcomes += more
        if not spec.partial or not more:
            break
    return outcomes + [TestOutcome(Status.failed, "not run: the program had ended")] * (len(tests) - len(outcomes))


def _candidate_payload(program: str, spec: CodeSpec, limits: Limits) -> dict[str, Any]:
    return {
        "program": program,
        "setup": plans.shared_part(spec.setup),
        "shared": _shared(spec),
        "value_bytes": limits.value_bytes,
    }


def _shared(spec: CodeSpec) -> list[str]:
    """Classes that both sides have: their instances travel by value."""
    subject = {spec.entry_point.partition(".")[0], "Solution"}
    return [name for part in (spec.setup, spec.prompt) for name in plans.classes_of(part) if name not in subject]


def _checker_payload(tests: list[str], spec: CodeSpec, limits: Limits) -> dict[str, Any]:
    preludes = [spec.prompt] if _is_python(spec.prompt) else []
    return {
        "preludes": preludes,
        "setup": spec.setup,
        "tests": [plans.with_types(test) for test in tests],
        "names": sorted(plans.read_names((*preludes, spec.setup, *tests))),
        "remote": [spec.entry_point.partition(".")[0]] if spec.entry_point else [],
        "entry_point": spec.entry_point,
        "shared": _shared(spec),
        "value_bytes": limits.value_bytes,
        "stop_early": not spec.partial,
        "install": testfiles.sources() if testfiles.needed([spec.setup, *tests]) else {},
    }


def _checker_limits(limits: Limits) -> Limits:
    """The checker waits for the candidate, so it has to outlive it; its own work is small."""
    return limits._replace(
        wall_s=limits.wall_s + 5,
        cpu_s=limits.cpu_s + 5,
        memory_mb=max(512, limits.memory_mb),
        output_bytes=max(_OUTCOMES_BYTES, limits.output_bytes),
    )


def _is_python(source: str) -> bool:
    if not source:
        return False
    try:
        ast.parse(source)
    except plans.UNPARSABLE:
        return False
    return True


def _read(candidate: Finished, checker: Finished, limits: Limits, count: int, key: str) -> list[TestOutcome]:
    outcomes: list[TestOutcome] = []
    share = 1000 * checker.wall_s / max(1, count)
    for written in checker.channel.split(b"\n")[:-1]:
        line = _outcome(written)
        if line.get("key") != key:  # the tests wrote where a program told them to
            return [*outcomes, TestOutcome(Status.failed, "the verdict's channel was written to", share)]
        if "broken" in line:
            return [*outcomes, TestOutcome(Status.error, f"the test itself is broken: {line['broken']}", share)]
        if "end" in line:
            return outcomes
        if line["ok"]:
            outcomes.append(TestOutcome(Status.passed, "", share))
            continue
        ended = how_it_ended(candidate, limits) if candidate.killed not in ("done", "") or candidate.signal else ""
        if candidate.killed == "done":
            ended = ""
        if candidate.killed == "starved":
            return [*outcomes, TestOutcome(Status.error, "the machine was too busy to run it", share)]
        outcomes.append(TestOutcome(Status.failed, ended or line["reason"], share))
    ended = how_it_ended(checker, _checker_limits(limits))
    if ended:
        outcomes.append(TestOutcome(Status.error, f"the checker {ended}", share))
    return outcomes


def _outcome(written: bytes) -> dict[str, Any]:
    try:
        line = plain.parse(written)
    except plain.NotPlain:
        return {}
    return line if type(line) is dict else {}
