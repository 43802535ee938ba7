"""Programs that raise what would end a test, a loop or a task of it without a failure."""

from __future__ import annotations

from tests.attacks.case import FAILED, Case

_CASE = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        "
_ASYNC = "import asyncio\nasync def one(x):\n    assert await f(x) == 5\n"
_TASKS = _ASYNC + "async def main():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(one(1))\n"
_TESTS = {
    "case": _CASE + "self.assertEqual(f(1), 5)",
    "subtest": _CASE + "with self.subTest(x=1):\n            self.assertEqual(f(1), 5)",
    "all-map": "assert all(map(lambda x: f(x) == 5, [1, 2]))",
    "for-map": "for got in map(f, [1, 2, 3]):\n    assert got == 5",
    "zip": "assert all(a == b for a, b in zip(map(f, [1, 2]), [5, 5]))",
    "pytest": "import pytest\n@pytest.mark.parametrize('x', [1, 2])\ndef test_f(x):\n    assert f(x) == 5",
}
_RAISES = {
    "skip": "import unittest\ndef f(x): raise unittest.SkipTest('no')",
    "skip-derived": "import unittest\nclass E(unittest.SkipTest): pass\ndef f(x): raise E('no')",
    "should-stop": "import unittest.case\ndef f(x): raise unittest.case._ShouldStop",
    "stop": "def f(x): raise StopIteration",
    "stop-derived": "class E(StopIteration): pass\ndef f(x): raise E",
    "exit": "def f(x): raise SystemExit(0)",
    "generator-exit": "def f(x): raise GeneratorExit",
    "pytest-skip": "class Skipped(BaseException): pass\n"
    "Skipped.__module__ = 'rgopd.verifier.testfiles.names'\ndef f(x): raise Skipped('x')",
}
_CANCELLED = "import asyncio\nasync def f(x): raise asyncio.CancelledError"
ENDING = [
    Case(f"{raised}-in-{where}", {"kind": "code", "response": program, "tests": [test]}, FAILED)
    for raised, program in _RAISES.items()
    for where, test in _TESTS.items()
] + [
    Case(
        "cancelled-in-group",
        {"kind": "code", "response": _CANCELLED, "tests": [_TASKS + "asyncio.run(main())"]},
        FAILED,
    ),
    Case(
        "exit-of-a-test-file",
        {"kind": "code", "response": "def f(x): raise SystemExit(0)", "tests": ["import sys\nf(1)\nassert False"]},
        FAILED,
    ),
]
