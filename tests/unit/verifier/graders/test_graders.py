"""The kinds that run without a process: choice, exact, format, constraints, and their compositions."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from rgopd.common.errors import InvalidInput
from rgopd.verifier.graders import default_registry
from rgopd.verifier.graders.base import Lane, Tools
from rgopd.verifier.verdict import Verdict

NO_TOOLS = cast(Tools, None)  # these kinds use none


def judge(kind: str, response: str, **fields: Any) -> Verdict:
    grader = default_registry().get(kind)
    return grader.grade(response, grader.prepare(fields), NO_TOOLS)


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. Paris", "B"),
        ("The answer is B.", "B"),
        ("Answer: B", "B"),
        ("A looks right, but the answer is B", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("<think>The answer is A</think>The answer is B", "B"),
        ('<think>\\boxed{B}, but they say "C"</think>\nAnswer: C', "C"),
        ("I choose Paris.\nParis", "B"),
        ("A dog barked.", None),
        ("", None),
    ],
)
def test_choice(response: str, letter: str | None) -> None:
    verdict = judge("choice", response, reference="B", options=["Rome", "Paris", "Oslo"])
    assert verdict.extracted == letter
    assert verdict.status == ("passed" if letter == "B" else "failed")


@pytest.mark.parametrize(
    ("response", "fields", "status"),
    [
        (" a  b ", {"reference": "a b"}, "passed"),
        ("a  b", {"reference": "a b", "ignore_whitespace": False}, "failed"),
        ("A", {"reference": "a"}, "failed"),
        ("A", {"reference": ["b", "a"], "ignore_case": True}, "passed"),
        ("x\n#### 42", {"reference": "42", "extract": "hashes"}, "passed"),
        ("x", {"reference": "42", "extract": "hashes"}, "failed"),
        ("x\n42\n", {"reference": "42", "extract": "last_line"}, "passed"),
        (r"\boxed{42}", {"reference": "42", "extract": "boxed"}, "passed"),
        ("<answer>42</answer>", {"reference": "42", "extract": "answer_tag"}, "passed"),
    ],
)
def test_exact(response: str, fields: dict[str, Any], status: str) -> None:
    assert judge("exact", response, **fields).status == status


@pytest.mark.parametrize(
    ("requirement", "good", "bad"),
    [
        ("boxed", r"\boxed{1}", r"\boxed{1"),
        ("one_boxed", r"\boxed{1}", r"\boxed{1} \boxed{2}"),
        ("hashes", "#### 5", "####"),
        ("think", "<think>a</think>b", "<think>a<think></think>b"),
        ("answer_tag", "<answer>1</answer>", "<answer></answer>"),
        ("code_block", "```\nx\n```", "x"),
        ("json", '```json\n{"a": 1}\n```', "{a: 1}"),
    ],
)
def test_format(requirement: str, good: str, bad: str) -> None:
    assert judge("format", good, require=[requirement]).status == "passed"
    assert judge("format", bad, require=[requirement]).status == "failed"
    assert judge("format", good, require=[requirement], max_chars=2).status == "failed"


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        ({"name": "words", "at_least": 3}, "one two three", "one two"),
        ({"name": "words", "at_most": 2}, "one two", "one two three"),
        ({"name": "sentences", "at_least": 2}, "One. Two.", "One"),
        ({"name": "paragraphs", "at_least": 2}, "a\n\nb", "a\nb"),
        ({"name": "bullets", "at_least": 2, "at_most": 2}, "* a\n- b", "* a"),
        ({"name": "characters", "at_most": 3}, "abc", "abcd"),
        ({"name": "keyword", "text": "cat", "at_least": 2}, "cat Cat", "cat concat"),
        ({"name": "keywords", "texts": ["cat", "dog"]}, "a cat, a dog", "a cat"),
        ({"name": "forbidden", "texts": ["cat"]}, "concat", "a Cat"),
        ({"name": "letter", "text": "z", "at_least": 2}, "zZ", "z"),
        ({"name": "starts_with", "text": "Hello"}, "hello you", "you, hello"),
        ({"name": "ends_with", "text": "bye."}, "so, bye.", "bye. then"),
        ({"name": "lowercase"}, "abc", "aBc"),
        ({"name": "uppercase"}, "ABC", "ABc"),
        ({"name": "capital_words", "at_least": 1}, "a BIG one", "a Big one"),
        ({"name": "no_commas"}, "a b", "a, b"),
        ({"name": "json"}, '{"a": 1}', "a"),
        ({"name": "quoted"}, '"a"', "a"),
        ({"name": "title"}, "<<T>> x", "<<>> x"),
        ({"name": "highlights", "at_least": 1}, "*a* b", "a b"),
        ({"name": "sections", "text": "SECTION", "at_least": 2}, "SECTION 1 SECTION 2", "SECTION 1"),
        ({"name": "postscript"}, "x\nP.S. y", "x"),
        ({"name": "placeholders", "at_least": 1}, "Dear [name]", "Dear name"),
        ({"name": "two_responses"}, "a ****** b", "a ****** a"),
    ],
)
def test_constraints(constraint: dict[str, Any], good: str, bad: str) -> None:
    assert judge("constraints", good, constraints=[constraint]).status == "passed"
    assert judge("constraints", bad, constraints=[constraint]).status == "failed"
    assert judge("constraints", "", constraints=[constraint]).status == "failed"


def test_constraints_give_partial_credit() -> None:
    constraints = [{"name": "no_commas"}, {"name": "words", "at_least": 2}]
    verdict = judge("constraints", "a, b", constraints=constraints, partial=True)
    assert (verdict.status, verdict.reward) == ("failed", 0.5)


def test_loose_constraints_forgive_a_first_line() -> None:
    fields: dict[str, Any] = {"constraints": [{"name": "lowercase"}]}
    assert judge("constraints", "Sure!\nall lower", **fields).status == "failed"
    assert judge("constraints", "Sure!\nall lower", loose=True, **fields).status == "passed"


BOXED = {"kind": "format", "require": ["boxed"]}
EXACT = {"kind": "exact", "reference": "4", "extract": "boxed"}


def test_all_of() -> None:
    assert judge("all_of", r"\boxed{4}", parts=[BOXED, EXACT]).status == "passed"
    verdict = judge("all_of", r"\boxed{5}", parts=[BOXED, EXACT])
    assert verdict.status == "failed"
    assert "parts.1 (exact)" in verdict.reason


def test_weighted() -> None:
    parts = [{**BOXED, "weight": 1}, {**EXACT, "weight": 3}]
    assert judge("weighted", r"\boxed{4}", parts=parts).reward == 1.0
    half = judge("weighted", r"\boxed{5}", parts=parts)
    assert (half.status, half.reward) == ("failed", 0.25)
    assert judge("weighted", r"\boxed{5}", parts=parts, threshold=0.2).status == "passed"


def test_a_composition_runs_where_its_heaviest_part_does() -> None:
    grader = default_registry().get("all_of")
    math = {"kind": "math", "reference": "4"}
    code = {"kind": "code", "tests": ["assert f() == 1"]}
    assert grader.lane_of(grader.prepare({"parts": [BOXED]})) is Lane.inline
    assert grader.lane_of(grader.prepare({"parts": [BOXED, math]})) is Lane.symbolic
    assert grader.lane_of(grader.prepare({"parts": [code, math]})) is Lane.sandbox


def nested(depth: int) -> dict[str, Any]:
    return {"kind": "all_of", "parts": [nested(depth - 1)]} if depth else BOXED


INVALID = [
    ("math", {}, "missing field 'reference'"),
    ("math", {"reference": " "}, "the reference is empty"),
    ("math", {"reference": "1", "refrence": "2"}, "did you mean 'reference'"),
    ("code", {}, "needs 'tests'"),
    ("code", {"tests": []}, "needs 'tests'"),
    ("code", {"tests": [1]}, "all strings or all objects"),
    ("code", {"tests": ["assert f()", {"stdin": ""}]}, "all strings or all objects"),
    ("code", {"tests": [{"args": [1], "expected": 2}]}, "entry_point"),
    ("code", {"test": "def check(f): pass"}, "entry_point"),
    ("code", {"tests": [{"stdin": ""}]}, "stdout"),
    ("code", {"tests": [{"stdin": "", "stdout": ""}], "language": "pyhton"}, "did you mean 'python'"),
    ("code", {"tests": ["assert f()"], "limits": {"cpu": 1}}, "did you mean 'cpu_s'"),
    ("code", {"tests": ["assert f()"], "limits": {"cpu_s": -1}}, "greater than 0"),
    ("constraints", {"constraints": [{"name": "words"}]}, "at_least"),
    ("constraints", {"constraints": [{"name": "word"}]}, "words"),
    ("all_of", {"parts": [{"kind": "maths"}]}, "did you mean 'math'"),
    ("all_of", {"parts": [{"kind": "math"}]}, "parts.0: missing field 'reference'"),
    ("all_of", {"parts": [nested(9)]}, "nest more than"),
    ("python", {"grader": "mine"}, "python_graders is empty"),
]


@pytest.mark.parametrize(("kind", "fields", "says"), INVALID)
def test_invalid_items_say_what_to_do(kind: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(says)):
        default_registry().get(kind).prepare(fields)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'choice'"):
        default_registry().get("choise")
