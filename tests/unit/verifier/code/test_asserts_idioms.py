"""What tests of the common data sets say: right programs pass, whatever crosses between them and their tests.

`idioms.txt` holds them: `=== name`, the program, and sections `--- setup`, `--- entry_point`, `--- test`; `pytest.txt`
test files, and in `--- want` what comes of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.verifier.conftest import Judge


def read(path: Path) -> dict[str, dict[str, str]]:
    """Name -> sections; the program's is ''."""
    found = {}
    for part in re.split(r"^=== ", path.read_text(), flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        program, *sections = re.split(r"^--- (\w+)\n", rest, flags=re.MULTILINE)
        found[name] = {"": program, **dict(zip(sections[::2], sections[1::2], strict=True))}
    return found


IDIOMS = read(Path(__file__).with_name("idioms.txt"))


def judged(judge: Judge, sections: dict[str, str], program: str) -> Any:
    fields = {key: text.strip() for key, text in sections.items() if key in ("setup", "entry_point")}
    return judge("code", program, tests=[sections["test"]], **fields)


@pytest.mark.parametrize("name", IDIOMS)
def test_a_right_program_passes(judge: Judge, name: str) -> None:
    verdict = judged(judge, IDIOMS[name], IDIOMS[name][""])
    assert verdict.status == "passed", verdict.reason


TEST_FILES = read(Path(__file__).with_name("pytest.txt"))


@pytest.mark.parametrize("name", TEST_FILES)
def test_files_are_run_as_pytest_runs_them(judge: Judge, name: str) -> None:
    verdict = judged(judge, TEST_FILES[name], TEST_FILES[name][""])
    assert verdict.status == TEST_FILES[name].get("want", "passed").strip(), verdict.reason
    assert judged(judge, TEST_FILES[name], "x = 1\n").status != "passed"


@pytest.mark.parametrize("name", ["dataclass", "date", "namedtuple", "enum", "vector", "library-exceptions"])
def test_an_empty_program_does_not(judge: Judge, name: str) -> None:
    assert judged(judge, IDIOMS[name], "x = 1\n").status == "failed"


@pytest.mark.parametrize(
    "test",
    [
        "def test_f():\n    assert f(1) == 2",
        "async def test_f():\n    assert f(1) == 2",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 2)",
        "import unittest\nclass T(unittest.TestCase):\n    pass",
        "from solution import g\nassert g(1) == 1",
    ],
)
def test_what_a_runner_would_find_is_run(judge: Judge, test: str) -> None:
    assert judge("code", "def f(x): return x", tests=[test]).status == "failed"


METHOD = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
FUNCTION = "def add(a, b):\n    return a + b\n"
CALLS = [{"args": [1, 2], "expected": 3}]


@pytest.mark.parametrize("entry_point", ["add", "Solution.add", "Solution().add"])
@pytest.mark.parametrize("program", [METHOD, FUNCTION], ids=["method", "function"])
@pytest.mark.parametrize(
    "fields",
    [
        {"tests": CALLS},
        {"tests": ["assert add(1, 2) == 3"]},
        {"tests": ["for i in range(3):\n    assert add(i, b=2) == i + 2"]},
        {"test": "def check(candidate):\n    assert candidate(a=1, b=2) == 3"},
    ],
    ids=["calls", "asserts", "loop", "check"],
)
def test_methods_and_functions_by_any_name(
    judge: Judge, fields: dict[str, Any], program: str, entry_point: str
) -> None:
    right = judge("code", program, entry_point=entry_point, **fields)
    assert right.status == "passed", right.reason
    assert judge("code", program.replace("a + b", "a - b"), entry_point=entry_point, **fields).status == "failed"


def test_every_call_is_one_of_a_new_object(judge: Judge) -> None:
    program = (
        "class Solution:\n    def __init__(self): self.n = 0\n"
        "    def f(self, a):\n        self.n += a\n        return self.n\n"
    )
    assert judge("code", program, entry_point="f", tests=["assert f(1) == 1", "assert f(2) == 2"]).status == "passed"


MERGE = """
class Solution:
    def merge(self, a: Optional[ListNode], b: Optional[ListNode]) -> Optional[ListNode]:
        first = last = ListNode()
        while a and b:
            if a.val < b.val:
                last.next, a = a, a.next
            else:
                last.next, b = b, b.next
            last = last.next
        last.next = a or b
        return first.next
"""
INVERT = """
class Solution:
    def invert(self, root: Optional[TreeNode]) -> Optional[TreeNode]:
        if root:
            root.left, root.right = self.invert(root.right), self.invert(root.left)
        return root
"""
MERGE_ALL = """
class Solution:
    def merge_all(self, lists: List[Optional[ListNode]]) -> Optional[ListNode]:
        heap = [(node.val, i, node) for i, node in enumerate(lists) if node]
        heapify(heap)
        first = last = ListNode()
        while heap:
            _, i, node = heappop(heap)
            last.next = last = node
            if node.next:
                heappush(heap, (node.next.val, i, node.next))
        return first.next
"""


@pytest.mark.parametrize(
    ("program", "name", "args", "expected"),
    [
        (MERGE, "merge", [[1, 3], [2]], [1, 2, 3]),
        (MERGE, "merge", [[], []], []),
        (INVERT, "invert", [[4, 2, 7, 1, None, 6]], [4, 7, 2, None, 6, None, 1]),
        (INVERT, "invert", [[]], []),
        (MERGE_ALL, "merge_all", [[[1, 4], [2], []]], [1, 2, 4]),
    ],
)
@pytest.mark.parametrize("style", ["calls", "asserts"])
def test_nodes_are_made_from_lists(
    judge: Judge, program: str, name: str, args: list[Any], expected: list[Any], style: str
) -> None:
    call = f"assert {name}({', '.join(map(repr, args))}) == {expected!r}"
    tests = [{"args": args, "expected": expected}] if style == "calls" else [call]
    verdict = judge("code", program, tests=tests, entry_point=name)
    assert verdict.status == "passed", verdict.reason


def test_names_that_sites_import_are_there(judge: Judge) -> None:
    program = (
        "class Solution:\n    def f(self, n: int) -> float:\n"
        "        return sqrt(n) + mean([n, n]) + gcd(4, 6) + len(Counter('ab')) + reduce(lambda a, b: a + b, [1])\n"
    )
    assert judge("code", program, tests=[{"args": [4], "expected": 11.0}], entry_point="f").status == "passed"
