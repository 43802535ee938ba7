"""Function-call tests: inputs go in, plain values come out, the comparison happens here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rgopd.verifier.code.compare import same_value
from rgopd.verifier.code.entry import program_of
from rgopd.verifier.code.outcome import how_it_ended, summarise
from rgopd.verifier.code.spec import CodeSpec
from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.command import Command, Finished
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.tools import Tools
from rgopd.verifier.verdict import Status, TestOutcome, Verdict

Judge = Callable[[int, Any], str]
"""(index, value) -> '' or why it is wrong."""


def grade(response: str, spec: CodeSpec, tools: Tools) -> Verdict:
    """Tests of the form {args, kwargs, expected}."""
    tests: list[Any] = list(spec.tests)
    program = program_of(response, spec)
    requests = [
        {
            "f": spec.entry_point,
            "a": [plain.encode(a) for a in test.args],
            "k": {k: plain.encode(v) for k, v in test.kwargs.items()},
        }
        for test in tests
    ]

    def judge(index: int, value: Any) -> str:
        expected = tests[index].expected
        if same_value(value, expected, spec.tolerance):
            return ""
        return f"returned {plain.short(value)}, expected {plain.short(expected)}"

    outcomes = run_calls(program, requests, judge, tools, tools.limits(spec), setup=spec.setup, go_on=spec.partial)
    return summarise(outcomes, len(tests), partial=spec.partial, extracted=program)


def run_calls(
    program: str,
    requests: Sequence[dict[str, Any]],
    judge: Judge,
    tools: Tools,
    limits: Limits,
    *,
    setup: str = "",
    go_on: bool = False,
) -> list[TestOutcome]:
    """Make the calls in one process and judge the answers. With `go_on`, calls after one that ended the process
    are made in a new one; otherwise they are not run."""
    outcomes: list[TestOutcome] = []
    while len(outcomes) < len(requests):
        first = len(outcomes)
        payload = {
            "program": program,
            "setup": setup,
            "calls": list(requests[first:]),
            "value_bytes": limits.value_bytes,
        }
        end = tools.sandbox.run(Command("calls", limits, payload))
        outcomes += _read(end, first, len(requests) - first, judge, limits)
        if not go_on or len(outcomes) == first:
            break
    return outcomes + [_not_run()] * (len(requests) - len(outcomes))


def _not_run() -> TestOutcome:
    return TestOutcome(Status.failed, "not run: the program had ended")


def _read(end: Finished, first: int, count: int, judge: Judge, limits: Limits) -> list[TestOutcome]:
    """Outcomes up to and including the call that ended the process."""
    share = 1000 * end.wall_s / max(1, count)
    lines = end.channel.split(b"\n")[:-1]
    ended = how_it_ended(end, limits) or "the program exited before it answered"
    outcomes: list[TestOutcome] = []
    for number in range(count + 1):
        answer = _answer(lines[number] if number < len(lines) else None, number)
        if answer is None:
            status = Status.error if end.killed == "starved" else Status.failed
            reason = "the machine was too busy to run it" if status is Status.error else ended
            return [*outcomes, TestOutcome(status, reason, share)]
        if "e" in answer:
            outcomes.append(TestOutcome(Status.failed, _raised(answer["e"]), share))
            if number == 0:  # the program itself raised: it would again
                return outcomes * count
            continue
        if number:
            outcomes.append(_judged(answer.get("v"), first + number - 1, judge, share))
    return outcomes


def _answer(line: bytes | None, number: int) -> dict[str, Any] | None:
    if line is None:
        return None
    try:
        answer = plain.parse(line)
    except plain.NotPlain:
        return None
    return answer if type(answer) is dict and answer.get("a") == number else None


def _judged(value: Any, index: int, judge: Judge, share: float) -> TestOutcome:
    try:
        reason = judge(index, plain.decode(value))
    except plain.NotPlain as problem:
        reason = str(problem)
    except RecursionError:
        reason = "the value nests too deeply"
    except (ArithmeticError, TypeError, ValueError) as problem:  # a signalling not-a-number, an int beyond the floats
        reason = f"the value cannot be compared: {type(problem).__name__}"
    return TestOutcome(Status.failed if reason else Status.passed, reason, share)


def _raised(described: Any) -> str:
    parts = [str(part)[:300] for part in described[:2]] if type(described) is list else ["an error"]
    return "raised " + ": ".join(part for part in parts if part)
