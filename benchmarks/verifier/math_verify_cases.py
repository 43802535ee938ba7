"""Run math-verify's own published test cases through our judge.

    pip download --no-binary :all: --no-deps --no-build-isolation -d /tmp/mv math-verify==0.9.0
    tar xzf /tmp/mv/math_verify-0.9.0.tar.gz -C /tmp/mv
    python benchmarks/verifier/math_verify_cases.py /tmp/mv/math_verify-0.9.0/tests

The cases are not copied here: while its tests run, `parse` and `verify` are recorded, and each recorded pair of
texts that math-verify calls equal is judged by ours. What differs is printed.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import math_verify
import pytest

from rgopd.verifier.symbolic.answers import judge


class Recorder:
    """Remembers which text each parse came from, and what verify said of a pair."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.keep: list[Any] = []
        self.cases: list[tuple[str, str, bool, float | None]] = []
        self.parse, self.verify = math_verify.parse, math_verify.verify

    def recording_parse(self, text: str, *args: Any, **kwargs: Any) -> Any:
        result = self.parse(text, *args, **kwargs)
        self.keep.append(result)
        self.texts[id(result)] = text
        return result

    def recording_verify(self, gold: Any, target: Any, *args: Any, **kwargs: Any) -> bool:
        answer = bool(self.verify(gold, target, *args, **kwargs))
        if id(gold) in self.texts and id(target) in self.texts:
            places = kwargs.get("float_rounding", 6)
            tolerance = None if places == 6 else 0.6 * 10.0**-places
            self.cases.append((self.texts[id(gold)], self.texts[id(target)], answer, tolerance))
        return answer


class Swap:
    """pytest plugin: put the recorder's functions into each collected test module."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            for name in ("parse", "verify"):
                if hasattr(item.module, name):
                    setattr(item.module, name, getattr(self.recorder, f"recording_{name}"))


def passes(gold: str, answer: str, tolerance: float | None) -> bool:
    return judge({"references": [gold], "response": answer, "tolerance": tolerance})["status"] == "passed"


def main(folder: Path) -> int:
    package = ModuleType("tests")  # its tests import one another as `tests.…`
    package.__path__ = [str(folder)]
    sys.modules["tests"] = package
    recorder = Recorder()
    pytest.main(
        ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(folder), "-c", "/dev/null", str(folder)],
        plugins=[Swap(recorder)],
    )
    logging.disable(logging.CRITICAL)
    right = {(gold, answer): tolerance for gold, answer, equal, tolerance in recorder.cases if equal}
    wrong = {(gold, answer): tolerance for gold, answer, equal, tolerance in recorder.cases if not equal}
    lost = [case for case in right if not passes(*case, right[case])]
    gained = [case for case in wrong if passes(*case, wrong[case])]
    for title, cases in (("math-verify equal, ours not", lost), ("math-verify unequal, ours equal", gained)):
        for gold, answer in cases:
            print(f"{title}: {gold!r} | {answer!r}")
    print(f"equal by math-verify: {len(right)}, of these passed here: {len(right) - len(lost)}")
    print(f"unequal by math-verify: {len(wrong)}, of these failed here: {len(wrong) - len(gained)}")
    return 0


if __name__ == "__main__":
    assert importlib.util.find_spec("math_verify")
    sys.exit(main(Path(sys.argv[1])))
