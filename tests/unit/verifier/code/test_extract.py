"""Finding the program in a response, and the box in a text."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgopd.verifier.code.extract import complete, program
from rgopd.verifier.reading import answer_tag, boxed

FOUND = [json.loads(line) for line in (Path(__file__).parent / "responses.jsonl").read_text().splitlines()]
"""Programs spread over blocks and prose: with `names` that tests call and a claim that has to be true of the program
found, or with standard input and output."""

RESPONSES = [
    ("def f(): pass", "def f(): pass"),
    ("Text\n```python\nx = 1\n```\nmore", "x = 1\n"),
    ("```\nx = 1\n```", "x = 1\n"),
    ("```python\ndef f(): return 1\n```\nUse it:\n```python\nprint(f())\n```", "def f(): return 1\n"),
    ("```python\ndef f(): return 1\n```\nBetter:\n```py\ndef f(): return 2\n```", "def f(): return 2\n"),
    ("```bash\nls\n```\n```python\nx = 1\n```", "x = 1\n"),
    ("<think>```python\nwrong\n```</think>```python\nx = 1\n```", "x = 1\n"),
    ("```python\ns = '''\n````\n'''\n```", "s = '''\n````\n'''\n"),
    ("~~~python\nx = '```'\n~~~", "x = '```'\n"),
    ("```python\ndef f():\n    return", "def f():\n    return"),
    ("  ```python\n  x = 1\n   y = 2\n z\n  ```", "x = 1\n y = 2\nz\n"),
    ("```python\nprint(5)\n```\nOutput:\n```\n5\n```", "print(5)\n"),
    ("```\nprint(5)\n```\nOutput:\n```\n5\n```", "print(5)\n"),
    ("```python\nprint(2)\n```\n```\ndef f(): return 1\n```", "def f(): return 1\n"),
    ("```python\nx = '</think>'\n```", "x = '</think>'\n"),
    ("\ufeffx = 1\n", "x = 1\n"),
    ("", ""),
]


@pytest.mark.parametrize(("response", "expected"), RESPONSES)
def test_program(response: str, expected: str) -> None:
    assert program(response, names=["f"]) == expected


@given(st.text(alphabet="`~\n abc", max_size=200))
def test_any_response_gives_some_program(response: str) -> None:
    assert isinstance(program(response), str)


@pytest.mark.parametrize("case", [c for c in FOUND if "claim" in c], ids=lambda c: c["what"])
def test_functions_out_of_blocks(case: dict[str, Any]) -> None:
    namespace: dict[str, Any] = {"__name__": "x"}
    exec(compile(program(case["response"], names=case["names"]), "program", "exec"), namespace)
    assert eval(case["claim"], namespace)


@pytest.mark.parametrize("case", [c for c in FOUND if "stdin" in c], ids=lambda c: c["what"])
def test_programs_out_of_blocks(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(case["stdin"]))
    exec(compile(program(case["response"]), "program", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == case["stdout"]


def test_the_rest_of_a_function_stays_as_it_is() -> None:
    body = "    return x * 2\n\n\ndef g():\n    pass\n"
    assert program(body, names=["f"]) == body


def test_other_languages_take_their_last_whole_block() -> None:
    response = "```cpp\nint g();\n```\n```c++\nint main() { return g(); }\n```\n```bash\ng++ a.cpp\n```"
    assert program(response, "cpp") == "int main() { return g(); }\n"
    assert program(response, "bash") == "g++ a.cpp\n"


PROMPT = "from typing import List\n\ndef helper(x):\n    return x\n\n\ndef f(x: int) -> int:\n    '''Double.'''\n"


def test_a_body_completes_the_prompt() -> None:
    assert complete(PROMPT, "    return x * 2\n", "f") == PROMPT + "    return x * 2\n"


def test_a_whole_function_replaces_the_last_one_and_keeps_what_it_needs() -> None:
    code = complete(PROMPT, "from __future__ import annotations\ndef f(x): return helper(x) * 2\n", "f")
    namespace: dict[str, object] = {}
    exec(compile(code, "x", "exec"), namespace)
    assert namespace["f"](4) == 8  # type: ignore[operator]


def test_a_method_is_found_by_its_class() -> None:
    response = "```python\nclass Solution:\n    def add(self): return 1\n```\n```python\nprint(Solution().add())\n```"
    found = program(response, names=["Solution.add"])
    assert found.startswith("class Solution")
    assert complete("class Solution:\n    def add(self):", found, "Solution.add").strip() == found.strip()


BOXES = [
    (r"\boxed{4}", "4"),
    (r"\boxed{1} and \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed {x}", "x"),
    (r"\boxed{a\}b}", r"a\}b"),
    (r"\boxed{1} \boxed{2", "1"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\fbox{7}", "7"),
    (r"\boxed{}", ""),
    (r"\boxed", None),
    ("no box", None),
]


@pytest.mark.parametrize(("text", "content"), BOXES)
def test_boxed(text: str, content: str | None) -> None:
    assert boxed(text) == content


def test_answer_tag() -> None:
    assert answer_tag("<answer>1</answer> <answer> 2 </answer>") == "2"
    assert answer_tag("<answer>1") is None


@pytest.mark.parametrize("response", ["x = 1\0\ndef f(): return 1", "Here it is:\n\ndef f():\n    return 1\n\0"])
def test_a_source_with_a_zero_is_not_mended(response: str) -> None:
    """Python refuses it; leaving out the line that holds it would pass what fails everywhere else."""
    assert program(response, names=["f"]) == response
