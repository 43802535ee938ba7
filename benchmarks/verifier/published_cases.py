"""False accepts, false rejects and seconds on test sets of public graders: math-verify alone, and ours.

    python -m benchmarks.verifier.published_cases FILE.py ... [CASES.tsv ...]

The files are not copied here. FILE.py is a unittest file that assigns `test_in` and `test_out` and asserts that they
are equal or not, as the test files of MATH (hendrycks/math) and MARIO_EVAL
do; CASES.tsv is ours (tests/unit/verifier/symbolic/cases). math-verify's
own tests: math_verify_cases.py.
"""

from __future__ import annotations

import ast
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from math_verify import parse, verify

from rgopd.verifier.symbolic.answers import judge, warm_up

Case = tuple[str, str, bool]


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


def tsv_cases(path: Path) -> Iterator[Case]:
    """One line a case: equal or different, reference, response."""
    for line in path.read_text(encoding="utf-8").splitlines():
        verdict, reference, response = line.split("\t")
        yield reference, response.replace("⏎", "\n"), verdict == "equal"


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
    boxed = response if "\\boxed" in response or ". " in response else f"\\boxed{{{response}}}"
    return any(judge({"references": [reference], "response": r})["status"] == "passed" for r in {response, boxed})


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
        name, read = ("ours (*.tsv)", tsv_cases) if path.suffix == ".tsv" else (path.name, unittest_cases)
        sets.setdefault(name, []).extend(read(path))
    print("| set | equal / different | math-verify: false accepts | false rejects | CPU s | here: … | … | … |")
    for name, cases in sets.items():
        right = sum(case[2] for case in cases)
        print(f"| {name} | {right} / {len(cases) - right} | {score(cases, alone)} | {score(cases, ours)} |", flush=True)
        for reference, response, expected in cases:
            if name != "ours (*.tsv)" and ours(reference, response) != expected:
                print(
                    f"  {'false reject' if expected else 'false accept'}: {reference!r} | {response!r}", file=sys.stderr
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
