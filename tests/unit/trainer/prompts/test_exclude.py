"""Problems of the test sets are found in prompts, whatever stands around them, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgopd.cli.data import run_data
from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.data import read_rows
from rgopd.trainer.prompts.datasets.exclude import Excluded, read_excluded

WRAPPER = (
    "Solve the following math problem step-by-step.\n"
    "Simplify your answer as much as possible. Present your final answer as \\boxed{Your Answer}.\n"
)
EGGS = "Janet's hens lay 16 eggs a day; she eats three.  How many eggs are left for the market?"


@pytest.mark.parametrize(
    "prompt",
    [
        EGGS,
        WRAPPER + EGGS,
        EGGS + "\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        EGGS.upper().replace("  ", "\n"),
        "Janet\u2019s hens lay １６ eggs a day - she eats three. How many eggs are left for the market ?",
    ],
)
def test_a_problem_is_found_with_its_instruction_case_and_spacing(prompt: str) -> None:
    assert Excluded([EGGS]).holds(prompt)


def test_a_likeness_is_not_the_problem() -> None:
    excluded = Excluded([EGGS, "Compute $\\sin 60^\\circ$."])
    assert len(excluded) == 2
    assert not excluded.holds(EGGS.replace("16", "17"))
    assert not excluded.holds(EGGS[:60])
    assert excluded.holds(WRAPPER + "Compute $\\sin 60^\\circ$.")
    assert not excluded.holds("Compute $\\sin 60^\\circ$ + 1 and say how you found it.")


words = st.lists(st.sampled_from(["a", "b", "c"]), min_size=8, max_size=12)


@given(words, st.lists(st.sampled_from(["a", "b", "c"]), max_size=30))
def test_a_long_problem_is_held_exactly_where_its_words_stand_in_a_row(problem: list[str], prompt: list[str]) -> None:
    n = len(problem)
    assert Excluded([" ".join(problem)]).holds(" ".join(prompt)) == any(
        prompt[i : i + n] == problem for i in range(len(prompt))
    )


def test_the_command_leaves_out_what_is_in_the_test_split_alone(tmp_path: Path) -> None:
    """Any converter: here UltraInteract's rows against GSM8K's and MATH's layouts."""
    gsm8k, math = tmp_path / "gsm8k" / "main", tmp_path / "math"
    gsm8k.mkdir(parents=True)
    math.mkdir()
    trained = "A train problem of GSM8K that everybody may learn from, is it 3?"
    (gsm8k / "test.jsonl").write_text(json.dumps({"question": EGGS, "answer": "#### 13"}) + "\n")
    (gsm8k / "train.jsonl").write_text(json.dumps({"question": trained, "answer": "#### 3"}) + "\n")
    triangle = "A triangle has sides 3, 4 and 5. What is the radius of its inscribed circle, in simplest form?"
    (math / "test.jsonl").write_text(json.dumps({"problem": triangle, "solution": "\\boxed{1}"}) + "\n")
    rows = [
        {"task": "Math_CoT", "dataset": "gsm8k", "instruction": WRAPPER + text, "response": "\\boxed{3}", "id": str(i)}
        for i, text in enumerate([EGGS, triangle, trained])
    ]
    source = tmp_path / "ui.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "out.jsonl"
    assert run_data("ultrainteract", str(source), out, check=False, exclude=[str(gsm8k.parent), str(math)]) == 0
    assert [r["prompt"] for r in read_rows(out)] == [WRAPPER + trained]
    report = json.loads(out.with_suffix(".meta.json").read_text())
    assert report["left_out"] == {"the problem is in a set given with --exclude": 2}
    assert report["excluded"] == [str(gsm8k.parent), str(math)]


def test_a_set_without_problems_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"q": "what?"}\n')
    with pytest.raises(ConfigError, match="no row has text in any of the columns question, problem"):
        read_excluded([str(tmp_path / "x.jsonl")])
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_excluded([str(tmp_path / "absent.jsonl")])
