"""False accepts, false rejects and seconds on test sets of public graders: math-verify alone, and ours.

    python -m benchmarks.verifier.published_cases FILE.py ... [CASES.tsv ...] [benchmarks/verifier/grader_rules.tsv]

The files are not copied here. FILE.py is a unittest file that assigns `test_in` and `test_out` and asserts that they
are equal or not, as the test files of MATH (hendrycks/math) and MARIO_EVAL do; CASES.tsv is ours
(tests/unit/verifier/symbolic/cases). math-verify's own tests: math_verify_cases.py. The graders of lm-eval's
minerva_math and hendrycks_math, of PRIME, Qwen2.5-Math and DeepSeek-Math hold no cases with a verdict: for them
grader_rules.tsv has a pair for each of their normalisation rules, written here. A pair that takes over 5 s of CPU time
is cut off, and counts as not equal.
"""

from __future__ import annotations

import ast
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from math_verify import parse, verify

from rgopd.verifier.symbolic.answers import judge, warm_up

Case = tuple[str, str, bool]
_MOST_S = 5.0


def unittest_cases(path: Path) -> Iterator[Case]:
    """(reference, answer, whether the file asserts that they are equal)."""
    for function in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)):
        values: dict[str, str] = {}
        for node in function.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                values[ast.unparse(node.targets[0])] = str(node.value.value)
            called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
            name = getattr(called, "attr", "")
            if name in ("assertTrue", "assertFalse") and {"test_in", "test_out"} <= values.keys():
                yield values["test_in"], values["test_out"], name == "assertTrue"


def parametrized_cases(path: Path) -> Iterator[Case]:
    """The rows of pytest's parametrize whose names begin with gold, pred and end with expected."""
    for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and len(n.args) == 2):
        names, rows = call.args
        if not (isinstance(names, ast.Constant) and isinstance(rows, ast.List)):
            continue
        columns = [name.strip() for name in str(names.value).split(",")]
        if columns[:2] != ["gold", "pred"] or columns[-1] != "expected":
            continue
        for row in rows.elts:
            values = [part.value for part in getattr(row, "elts", ()) if isinstance(part, ast.Constant)]
            if len(values) >= 3:
                yield str(values[0]), str(values[1]), bool(values[-1])


def tsv_cases(path: Path) -> Iterator[Case]:
    """One line a case: equal or different, reference, response."""
    for line in path.read_text(encoding="utf-8").splitlines():
        verdict, reference, response = line.split("\t")
        yield reference, response.replace("⏎", "\n"), verdict == "equal"


def rule_cases(path: Path) -> Iterator[tuple[str, Case]]:
    """One line a case: grader, equal or different, reference, answer."""
    for line in path.read_text(encoding="utf-8").splitlines():
        grader, verdict, reference, response = line.split("\t")
        yield grader, (reference, response, verdict == "equal")


def alone(reference: str, response: str) -> bool:
    """math-verify, both sides between $ signs unless they have delimiters or are prose."""
    texts = [
        t if any(m in t for m in ("$", "\\boxed", "\\(", "\\[", ". ", "is ")) else f"${t}$"
        for t in (reference, response)
    ]
    gold, answer = (parse(text, parsing_timeout=None) for text in texts)
    return bool(verify(gold, answer, timeout_seconds=None))


def ours(reference: str, response: str) -> bool:
    """The judge that workers run."""
    sentence = "\\boxed" in response or " is " in response or ". " in response or response.endswith((".", "\n"))
    boxed = response if sentence else f"\\boxed{{{response}}}"
    return any(judge({"references": [reference], "response": r})["status"] == "passed" for r in {response, boxed})


class TooLong(BaseException):
    """A pair took more than its seconds."""


def bounded(equal: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    """The same, cut off after some CPU seconds; False then."""

    def stop(*_: object) -> None:
        raise TooLong

    def run(reference: str, response: str) -> bool:
        signal.signal(signal.SIGVTALRM, stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, _MOST_S)
        try:
            return equal(reference, response)
        except TooLong:
            print(f"  over {_MOST_S:g} s, {equal.__name__}: {reference!r} | {response!r}", file=sys.stderr)
            return False
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    return run


def score(cases: list[Case], equal: Callable[[str, str], bool]) -> str:
    """A row's three figures."""
    began = time.process_time()
    got = [equal(reference, response) for reference, response, _ in cases]
    took = time.process_time() - began
    accepts = sum(g and not case[2] for g, case in zip(got, cases, strict=True))
    rejects = sum(case[2] and not g for g, case in zip(got, cases, strict=True))
    return f"{accepts} | {rejects} | {took:.1f}"


def main() -> int:
    logging.disable(logging.CRITICAL)
    warm_up()
    sets: dict[str, list[Case]] = {}
    for path in map(Path, sys.argv[1:]):
        if path.name == "grader_rules.tsv":
            for grader, case in rule_cases(path):
                sets.setdefault(f"rules of {grader}", []).append(case)
            continue
        name, read = ("ours (*.tsv)", tsv_cases) if path.suffix == ".tsv" else (path.name, unittest_cases)
        found = list(read(path)) or list(parametrized_cases(path))
        sets.setdefault(name, []).extend(found)
    print("| set | equal / different | math-verify: false accepts | false rejects | CPU s | here: … | … | … |")
    for name, cases in sets.items():
        right, theirs, here = sum(case[2] for case in cases), score(cases, bounded(alone)), score(cases, bounded(ours))
        print(f"| {name} | {right} / {len(cases) - right} | {theirs} | {here} |", flush=True)
        for reference, response, expected in cases:
            if bounded(ours)(reference, response) != expected:
                print(
                    f"  {'false reject' if expected else 'false accept'}: {reference!r} | {response!r}", file=sys.stderr
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
