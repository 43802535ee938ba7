"""The code kind on the real sandbox: every style of test, every ending."""

from __future__ import annotations

from typing import Any

import pytest

from rgopd.common.errors import InvalidInput
from tests.unit.verifier.conftest import Judge

ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"tests": ["assert add(1, 2) == 3", "assert 3 == add(b=2, a=1)"]},
        {"tests": ["assert add(1, 2) in (3, 4)"]},
        {"tests": ["import math\nassert math.isclose(add(0.1, 0.2), 0.3)"]},
        {"tests": ["for i in range(20):\n    assert add(i, i) == 2 * i"]},
        {"tests": [{"args": [1, 2], "expected": 3}], "entry_point": "add"},
        {"tests": [{"kwargs": {"a": 1, "b": 2}, "expected": 3}], "entry_point": "add"},
        {"test": "def check(candidate):\n    assert candidate(1, 2) == 3", "entry_point": "add"},
    ],
)
def test_right_and_wrong(judge: Judge, fields: dict[str, Any]) -> None:
    right, wrong = judge("code", ADD, **fields), judge("code", ADD.replace("+", "-"), **fields)
    assert (right.status, right.reward) == ("passed", 1.0)
    assert (wrong.status, wrong.reward) == ("failed", 0.0)
    assert wrong.reason


def test_stdin_and_stdout(judge: Judge) -> None:
    tests = [{"stdin": f"{n}\n", "stdout": f"{n * 2}\n"} for n in (1, 2)]
    assert judge("code", "print(int(input()) * 2)", tests=tests).status == "passed"
    wrong = judge("code", "print(2)", tests=tests)
    assert [t.status for t in wrong.tests] == ["passed", "failed"]
    assert "test 2 of 2: printed '2\\n', expected '4\\n'" in wrong.reason


@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("bash", "read x; echo $((x * 2))"),
        ("javascript", "console.log(2 * parseInt(require('fs').readFileSync(0, 'utf8')))"),
        ("cpp", "#include <iostream>\nint main() { long x; std::cin >> x; std::cout << 2 * x << '\\n'; }"),
    ],
)
def test_other_languages(judge: Judge, verifier: Any, language: str, program: str) -> None:
    tests = [{"stdin": "21\n", "stdout": "42\n"}]
    if language not in verifier.tools.toolchains.languages:  # said at start, and to whoever asks for it
        with pytest.raises(ValueError, match="not available"):
            judge("code", program, tests=tests, language=language)
        return
    assert judge("code", program, tests=tests, language=language).status == "passed"


def test_a_program_that_does_not_compile_is_wrong(judge: Judge, verifier: Any) -> None:
    if "cpp" in verifier.tools.toolchains.languages:
        verdict = judge("code", "int main() {", tests=[{"stdin": "", "stdout": ""}], language="cpp")
        assert verdict.status == "failed"
        assert "does not compile" in verdict.reason
    assert "SyntaxError" in judge("code", "def f(:", tests=["assert f() == 1"]).reason


def test_partial_credit_goes_on_after_a_crash(judge: Judge) -> None:
    program = "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return x\n"
    for tests in ([f"assert f({n}) == {n}" for n in (1, 2, 3, 4)], [f"assert f({n}) in [{n}]" for n in (1, 2, 3, 4)]):
        verdict = judge("code", program, tests=tests, partial=True)
        assert [t.status for t in verdict.tests] == ["passed", "failed", "passed", "passed"]
        assert (verdict.status, verdict.reward) == ("failed", 0.75)
        assert judge("code", program, tests=tests).reward == 0.0


def test_a_checker_program_decides(judge: Judge) -> None:
    checker = "def check(stdin, stdout, expected):\n    return sorted(stdout.split()) == sorted(expected.split())\n"
    tests = [{"stdin": "", "stdout": "1 2 3"}]
    assert judge("code", "print(3, 1, 2)", tests=tests, checker=checker).status == "passed"
    assert judge("code", "print(3, 1)", tests=tests, checker=checker).status == "failed"


@pytest.mark.parametrize("checker", ["def check(*a): return 1 / 0", "def check(*a): return 'yes'", "check = ("])
def test_a_broken_checker_program_is_nobodys_fault(judge: Judge, checker: str) -> None:
    verdict = judge("code", "print(1)", tests=[{"stdin": "", "stdout": "1"}], checker=checker)
    assert (verdict.status, verdict.reward) == ("error", None)


@pytest.mark.parametrize("test", ["assert add(1, 2 == 3", "assert add(1, 2) == undefined("])
def test_broken_tests_are_refused_before_anything_runs(judge: Judge, test: str) -> None:
    with pytest.raises(InvalidInput, match="not valid Python"):
        judge("code", ADD, tests=[test])


def test_a_setup_that_raises_is_nobodys_fault(judge: Judge) -> None:
    verdict = judge("code", ADD, tests=["assert add(x, 2) == 3"], setup="x = 1 / 0")
    assert verdict.status == "error"


def test_human_eval_forms(judge: Judge) -> None:
    prompt = "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    '''Sum.'''\n"
    fields = {"prompt": prompt, "test": "def check(c):\n    assert c([1, 2]) == 3\n", "entry_point": "total"}
    assert judge("code", "    return sum(xs)\n", **fields).status == "passed"
    fenced = "```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```"
    assert judge("code", fenced, **fields).status == "passed"
    assert judge("code", "    return 0\n", **fields).status == "failed"


def test_the_same_item_gets_the_same_verdict(judge: Judge) -> None:
    program = (
        "import random\ndef f():\n    return [hash('x'), random.random(), list({'a', 'b', 'c'}),"
        " [hash((i, 's')) for i in range(5)]]\n"
    )
    first = judge("code", program, tests=["assert f() == 1"])
    for n in range(5):
        again = judge("code", program + f"# {n}\n", tests=["assert f() == 1"])
        assert again.reason == first.reason


def test_limits_are_capped_by_the_service(verifier: Any) -> None:
    grader = verifier.registry.get("code")
    spec = grader.prepare({"tests": ["assert f()"], "limits": {"cpu_s": 3000, "memory_mb": 60000}})
    limits = verifier.tools.limits(spec)
    assert limits.cpu_s == verifier.tools.maximum_limits.cpu_s
    assert limits.memory_mb == verifier.tools.maximum_limits.memory_mb


@pytest.mark.parametrize(
    ("args", "status", "reward"),
    [
        ({"length": 5}, "passed", 1.0),
        ({"length": 6}, "failed", 0.0),
        ({"mode": "number"}, "failed", 0.25),
        ({"mode": "dict"}, "failed", 0.5),
        ({"mode": "bad"}, "error", None),
        ({"mode": "none"}, "error", None),
        ({"mode": "raise"}, "error", None),
        ({"unknown": 1}, "error", None),
    ],
)
def test_python_grader(judge: Judge, args: dict[str, Any], status: str, reward: float | None) -> None:
    verdict = judge("python", "hello", grader="mine", args=args)
    assert (verdict.status, verdict.reward) == (status, reward)
