"""The sandbox in code_eval's place, and the verifier reading benchmark rows as a second judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rgopd.evaluate.judge import Judge, disagrees
from rgopd.evaluate.sandbox import CodeEval, statements
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine


@pytest.fixture(scope="module")
def verifier() -> Iterator[VerifierEngine]:
    engine, _ = build_engine(VerifierConfig(workers=1, math_workers=1))
    yield engine
    assert engine.drain(30)
    engine.close()


def verdict(verifier: VerifierEngine, kind: Any, response: str, target: Any = "", **doc: Any) -> dict[str, Any] | None:
    sample = {"doc": doc, "target": target, "response": response}
    return Judge(verifier).verdicts(kind, [sample])[0]


def status(found: dict[str, Any] | None) -> str:
    return "none" if found is None else str(found["status"])


TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add(10, 5) == 15"


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        ("def add(a, b):\n    return a + b", True),
        ("def add(a, b):\n    return 3", False),
        ("import sys\nsys.exit(0)", False),
        ("import os\nos._exit(0)", False),
        ("def add(a, b):\n    return a + b\n```", False),  # a program byte for byte, not a text with one in it
        ("Here it is:\n```python\ndef add(a, b):\n    return a + b\n```", False),
        ("", False),
        ("def add(a, b):\n    return a + b\nprint(add(1))", False),  # what shows it at work is run too
        ("</think>\ndef add(a, b):\n    return a + b", False),
        ("import math\nbase = 0\ndef add(a, b):\n    global base\n    base = math.fsum([a, b])\n    return base", True),
        ("def add(a, b):\n    s = '''\n```\n'''\n    return a + b", True),
    ],
)
def test_a_program_is_judged_as_code_eval_judges_it(verifier: VerifierEngine, program: str, passes: bool) -> None:
    score, details = CodeEval(verifier).compute([TESTS], [[program]], [1])
    assert score == {"pass@1": float(passes)}
    assert details[0][0][1]["passed"] is passes


def test_humanevals_check_function_is_one_test(verifier: VerifierEngine) -> None:
    check = "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(double)"
    assert CodeEval(verifier).passes(check, "def double(x):\n    return 2 * x")
    assert not CodeEval(verifier).passes(check, "def double(x):\n    return x")
    assert statements(check) == [check]
    assert len(statements(TESTS)) == 3


def test_a_model_cannot_write_where_we_are(verifier: VerifierEngine, tmp_path: Path) -> None:
    target = tmp_path / "escaped"
    program = f"open({str(target)!r}, 'w').write('x')\ndef add(a, b):\n    return a + b"
    CodeEval(verifier).passes(TESTS, program)
    assert not target.exists()


@pytest.mark.parametrize(
    ("kind", "response", "fields", "expected"),
    [
        ("gsm", "so \\boxed{1{,}234}.", {"answer": "x\n#### 1,234"}, "passed"),
        ("gsm", "#### 1234", {"answer": "x\n#### 1,234"}, "passed"),
        ("gsm", "It is 12.", {"answer": "#### 13"}, "failed"),
        ("gsm", "The answer is 7", {"answer": "7"}, "passed"),  # GSM-Plus: the answer alone
        ("math", "\\boxed{\\frac12}", {"answer": "0.5"}, "passed"),
        ("choice", "I think the answer is (C).", {"target": "C"}, "passed"),
        ("choice", "the answer is (D)", {"target": "C"}, "failed"),
        ("code", "```python\ndef f(x):\n    return x\n```", {"test_list": ["assert f(1) == 1"]}, "passed"),
        ("code", "f = math.floor", {"test_list": ["assert f(1.5) == 1"], "test_setup_code": "import math"}, "passed"),
        ("constraints", "no comma here", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "passed"),
        ("constraints", "a, b", {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}, "failed"),
        ("constraints", "x", {"instruction_id_list": ["language:response_language"], "kwargs": [{}]}, "none"),
        ("", "x", {}, "none"),
    ],
)
def test_rows_are_read_for_the_verifier(
    verifier: VerifierEngine, kind: str, response: str, fields: dict[str, Any], expected: str
) -> None:
    assert status(verdict(verifier, kind, response, **fields)) == expected


@pytest.mark.parametrize(("words", "expected"), [(9, "passed"), (10, "failed")])
def test_ifevals_less_than_is_exclusive(verifier: VerifierEngine, words: int, expected: str) -> None:
    given = {"num_words": 10, "relation": "less than"}
    doc = {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [given]}
    assert status(verdict(verifier, "constraints", "word " * words, **doc)) == expected


def test_disagreement() -> None:
    passed = {"status": "passed", "reward": 1.0}
    assert not disagrees(1.0, 1.0, passed)
    assert disagrees(0.0, 1.0, passed)
    assert not disagrees(0.0, 1.0, {"status": "error", "reward": None})  # no opinion
    assert not disagrees(0.0, 1.0, None)
    assert not disagrees(1.0, 2.0, {"status": "failed", "reward": 0.5})  # one of two instructions
