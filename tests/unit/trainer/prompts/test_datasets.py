"""Converters on rows in the published layouts (columns from the datasets' cards, texts written for the tests)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgopd.cli.data import literal_judge, run_data, symbolic_judge
from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.data import read_rows
from rgopd.trainer.prompts.datasets import Options, get_converter, names
from rgopd.trainer.prompts.datasets.answers import last_boxed
from rgopd.trainer.prompts.datasets.base import Tally
from rgopd.trainer.prompts.datasets.source import choose_files, open_rows
from rgopd.trainer.prompts.datasets.ultrainteract import stdio_examples
from rgopd.trainer.prompts.datasets.write import clean, write
from rgopd.verifier.graders import default_registry

WRAPPER = (
    "Solve the following math problem step-by-step.\n"
    "Simplify your answer as much as possible. Present your final answer as \\boxed{Your Answer}.\n"
)
CONTEST = """Write Python code to solve the task.
Add two numbers.

Input

Two integers.

Output

Their sum.

Examples

Input

1 2


Output

3


Input

4 5

Output

9

Note

Nothing to note.
"""


def ui(task: str, instruction: str, response: str, dataset: str = "MATH") -> dict[str, str]:
    return {
        "task": task,
        "dataset": dataset,
        "instruction": instruction,
        "response": response,
        "id": "a_1_1",
        "parent_id": "b",
    }


def convert(name: str, rows: list[dict[str, Any]], **options: Any) -> tuple[list[dict[str, Any]], Tally]:
    tally = Tally()
    with literal_judge() as judge:
        made = list(get_converter(name, Options(judge, **options)).convert(rows, tally))
    for row in made:  # every converter's output must be what the verifier and the trainer's reader take
        fields = {k: v for k, v in row.items() if k not in ("id", "prompt", "kind", "domain")}
        default_registry().get(row["kind"]).prepare(fields)
    assert tally.read == len(rows)
    return made, tally


def test_ultrainteract_takes_each_agreed_problem_once_and_says_why_not_the_others() -> None:
    rows = [
        ui("Math_CoT", WRAPPER + "What is 1/2 + 1/2?", "Step 1 ... \\boxed{1}", "gsm8k"),
        ui("Math_CoT", WRAPPER + "What is 1/2 + 1/2?", "So \\boxed{\\frac{1}{2}}, no: \\boxed{1}", "gsm8k"),
        ui("Math_CoT", WRAPPER + "What is 2+2?", "\\boxed{4}"),
        ui("Math_CoT", WRAPPER + "What is 2+2?", "\\boxed{22}"),
        ui("Math_CoT", WRAPPER + "Prove it.", "QED"),
        ui("Math_CoT", WRAPPER + "Odd?", "\\boxed{7 // assumed wrongly}"),
        ui("Math_CoT", "Observation: your answer is wrong. Try again.", "\\boxed{7}"),
        ui("Math_PoT", WRAPPER + "What is 3+3?", "print(3+3)"),
        ui("Logic", "Who did it?", "The butler."),
        ui("Coding", CONTEST, "print(1)", "codecontest"),
    ]
    made, tally = convert("ultrainteract", rows)
    assert [(r["reference"], r["domain"]) for r in made] == [("1", "gsm8k")]
    assert made[0]["prompt"] == WRAPPER + "What is 1/2 + 1/2?"
    reasons = " | ".join(f"{n} {why}" for why, n in tally.left_out.items())
    for expected in (
        "2 another attempt",
        "1 the dataset's own solutions of this problem disagree",
        "1 no response with a boxed answer",
        "1 commentary inside the answer",
        "1 the instruction does not ask for a boxed answer",
        "1 task Math_PoT",
        "1 task Logic",
        "1 task Coding: no tests",
    ):
        assert expected in reasons
    assert len(made) + tally.left_out.total() == tally.read


def test_equal_answers_written_differently_agree_by_the_verifiers_judgement() -> None:
    rows = [ui("Math_CoT", WRAPPER + "Half?", f"\\boxed{{{a}}}") for a in ("0.5", "\\frac{1}{2}", "\\frac{1}{2}")]
    tally = Tally()
    with symbolic_judge() as judge:
        [row] = get_converter("ultrainteract", Options(judge)).convert(rows, tally)
        assert row["reference"] == "\\frac{1}{2}"
        assert list(clean([row, {**row, "prompt": "x", "reference": "\\frac{"}], tally, judge)) == [row]
    assert tally.left_out["the verifier does not pass the reference as its own answer"] == 1


def test_code_examples_of_contest_statements_on_request() -> None:
    rows = [ui("Coding", CONTEST, "", "codecontest"), ui("Coding", "Write quicksort.", "", "magicoder_evol_instruct")]
    [row], tally = convert("ultrainteract", rows, code_examples=True)
    assert row["tests"] == [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "4 5\n", "stdout": "9\n"}]
    assert tally.left_out.total() == 1


@pytest.mark.parametrize(
    ("statement", "count"),
    [
        ("Task.\nSAMPLE INPUT\n1\n\nSAMPLE OUTPUT\n2\n", 1),
        ("Task.\nSample Input 1:\n1\nSample Output 1:\n2\nSample Input 2:\n3\nSample Output 2:\n4\nExplanation\nx", 2),
        ("Examples\nInput\n1\nInput\n2\nOutput\n3\n", 0),
        ("Examples\nInput\n1\nOutput\n\n", 0),
        ("Input\n\nAn integer.\n\nOutput\n\nIts square.", 0),
        ("no examples", 0),
    ],
)
def test_stdio_examples_come_in_pairs_or_not_at_all(statement: str, count: int) -> None:
    assert len(stdio_examples(statement)) == count


def test_gsm8k() -> None:
    rows = [
        {"question": "How many?", "answer": "He has 600 + 634 = <<600+634=1234>>1234.\n#### 1,234"},
        {"question": "Broken?", "answer": "no mark"},
    ]
    [row], tally = convert("gsm8k", rows)
    assert row["reference"] == "1234"
    assert row["prompt"].startswith("How many?")
    assert "\\boxed{}" in row["prompt"]
    assert dict(tally.left_out) == {"no '####' before the answer": 1}


def test_math_reads_the_last_box_and_an_answer_column() -> None:
    rows = [
        {
            "problem": "A",
            "level": "Level 1",
            "type": "Algebra",
            "solution": "\\boxed{1} then \\boxed{\\frac{3}{\\sqrt{2}}}",
        },
        {"problem": "B", "solution": "long", "answer": "x^2", "subject": "Precalculus", "unique_id": "test/1.json"},
        {"problem": "C", "level": "Level 2", "type": "Geometry", "solution": "no box"},
    ]
    made, tally = convert("math", rows)
    assert [(r["reference"], r["domain"]) for r in made] == [
        ("\\frac{3}{\\sqrt{2}}", "Algebra"),
        ("x^2", "Precalculus"),
    ]
    assert tally.left_out.total() == 1


def test_mbpp_in_both_layouts() -> None:
    rows = [
        {
            "task_id": 2,
            "text": "Write a function to add.",
            "code": "def add(a,b): return a+b",
            "test_list": ["assert add(1,2)==3"],
            "test_setup_code": "import math",
            "challenge_test_list": ["assert add(-1,1)==0"],
        },
        {
            "source_file": "x",
            "task_id": 3,
            "prompt": "Sanitized.",
            "code": "",
            "test_imports": [],
            "test_list": ["assert f()"],
        },
        {"task_id": 4, "text": "Nothing to check.", "test_list": []},
    ]
    made, tally = convert("mbpp", rows)
    assert made[0]["tests"] == ["assert add(1,2)==3", "assert add(-1,1)==0"]
    assert made[0]["setup"] == "import math"
    assert "add(1,2)==3" in made[0]["prompt"]
    assert "add(-1,1)" not in made[0]["prompt"]
    assert made[1]["id"] == "mbpp-3"
    assert dict(tally.left_out) == {"no tests": 1}


def eurus_row(truth: str, source: str, ability: str) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"content": "[ASSESS] ...", "role": "system"}, {"content": f"Solve {truth[:30]}", "role": "user"}],
        "ability": ability,
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "extra_info": {"index": 0, "split": "dummy"},
    }


def test_eurus_math_stdio_and_function_problems() -> None:
    many = {"inputs": [f"{i}\n" for i in range(40)], "outputs": [f"{i}\n" for i in range(40)]}
    written = {"inputs": "['1 2\\n', ['3', '4']]", "outputs": "['3\\n', '7\\n']"}
    function = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}
    rows = [
        eurus_row("\\frac{1}{3}", "numina_olympiads", "math"),
        eurus_row(json.dumps(many), "codecontests", "code"),
        eurus_row(json.dumps(written), "taco", "code"),
        eurus_row(json.dumps(function), "apps", "code"),
        eurus_row(json.dumps({"inputs": "__import__('os')", "outputs": "[1]"}), "apps", "code"),
        eurus_row(json.dumps({"inputs": ["1"], "outputs": []}), "apps", "code"),
        {**eurus_row("1", "numina_olympiads", "math"), "prompt": [{"role": "system", "content": "x"}]},
    ]
    made, tally = convert("eurus", rows)
    assert [r["kind"] for r in made] == ["math", "code", "code"]
    assert len(made[1]["tests"]) == 32
    assert made[2]["tests"] == [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "3\n4", "stdout": "7\n"}]
    assert tally.notes.total() == 1
    assert set(tally.left_out.values()) == {1}
    assert tally.left_out.total() == 4
    assert "[ASSESS]" not in str(made)

    made, _ = convert("eurus", rows[3:4], functions=True)
    assert made[0]["entry_point"] == "add"
    assert made[0]["tests"] == [{"args": [1, 2], "expected": 3}, {"args": [3, 4], "expected": 7}]


@given(st.text(alphabet="ab1{}\\ ", max_size=12), st.text(alphabet="xy{}\\ ", max_size=12))
def test_last_boxed_finds_any_balanced_answer(inside: str, around: str) -> None:
    depth = 0
    for index, char in enumerate(inside):
        escaped = (len(inside[:index]) - len(inside[:index].rstrip("\\"))) % 2 == 1
        depth += 0 if escaped else (char == "{") - (char == "}")
        if depth < 0:
            return  # not a balanced answer
    if depth or inside.endswith("\\"):
        return
    assert last_boxed(f"{around}\\boxed{{{inside}}} done") == inside.strip()


def test_last_boxed_of_an_open_box_is_the_one_before() -> None:
    assert last_boxed("\\boxed{1} \\boxed{2") == "1"
    assert last_boxed("no box, \\boxe{1}") is None


def test_write_holds_out_the_same_prompts_in_any_order(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"p{i}", "kind": "math", "reference": "1", "domain": "d"} for i in range(50)]

    def made(order: list[dict[str, Any]], limit: int) -> tuple[set[str], set[str]]:
        out, aside = tmp_path / "t.jsonl", tmp_path / "h.jsonl"
        tally = Tally()
        counts = write(order, tally, out, limit=limit, heldout=7, heldout_output=aside, seed=3)
        ids = tuple({r["id"] for r in read_rows(p)} for p in (out, aside))
        assert counts == (len(ids[0]), 7)
        assert tally.taken.total() == sum(counts)
        assert not ids[0] & ids[1]
        return ids[0], ids[1]

    everything, aside = made(rows, 0)
    assert len(everything) == 43
    assert made(rows[::-1], 0) == (everything, aside)
    some, aside_too = made(rows[::-1], 10)
    assert aside_too == aside
    assert len(some) == 10
    assert some < everything


def test_nothing_left_is_an_error_that_says_why_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"question": "q", "answer": "none"}) + "\n")
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(ConfigError, match="1 rows were read; 1 x no '####' before the answer|1 rows were read, 1 x no"):
        run_data("gsm8k", str(tmp_path / "in.jsonl"), out, check=False)
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".partial"] == []


def test_the_command_on_a_parquet_folder_with_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "gsm8k" / "main"
    folder.mkdir(parents=True)
    for split, number in (("train", 1), ("test", 2)):
        rows = [{"question": f"{split} {i}?", "answer": f"#### {number}{i}"} for i in range(3)]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    out = tmp_path / "rows.jsonl"
    assert run_data("gsm8k", str(tmp_path / "gsm8k"), out, heldout=1, check=False) == 0
    assert "3 rows read; 2 prompts written" in capsys.readouterr().out
    made = [*read_rows(out), *read_rows(tmp_path / "rows-heldout.jsonl")]
    assert sorted(r["reference"] for r in made) == ["10", "11", "12"]
    report = json.loads((tmp_path / "rows.meta.json").read_text())
    assert report["read"] == 3
    assert report["dataset"].endswith("gsm8k")


def test_files_are_chosen_by_split_and_subset() -> None:
    repo = [
        "README.md",
        "main/train-00000-of-00001.parquet",
        "main/test-00000-of-00001.parquet",
        "socratic/train-0.parquet",
    ]
    assert choose_files(repo, "r", "train", "main") == ["main/train-00000-of-00001.parquet"]
    assert choose_files(["0000_sft.parquet", "figures/tree.png"], "r", "train", "") == ["0000_sft.parquet"]
    assert choose_files(["dataset_info.json", "state.json", "data-0.arrow"], "r", "train", "") == ["data-0.arrow"]
    with pytest.raises(ConfigError, match="no .* file for split 'dev'; splits found: test, train"):
        choose_files(repo, "r", "dev", "")


def test_json_as_lines_as_an_array_and_as_one_object_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n {"x": 1},\n {"x": 2}]')
    (tmp_path / "b.json").write_text('{\n "x": 3}')
    (tmp_path / "c.json").write_text('{"x": 4}\n{"x": 5}\n')
    assert [r["x"] for r in open_rows(str(tmp_path))] == [1, 2, 3, 4, 5]


def test_unknown_names_and_inputs_are_told(tmp_path: Path) -> None:
    assert names() == ["eurus", "gsm8k", "math", "mbpp", "ultrainteract"]
    with literal_judge() as judge, pytest.raises(ConfigError, match="did you mean 'gsm8k'"):
        get_converter("gsm8", Options(judge))
    with pytest.raises(ConfigError, match="no such file or folder, and not a hub id"):
        list(open_rows(str(tmp_path / "absent.jsonl")))
