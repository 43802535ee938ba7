"""Every pinned task, from files with the public columns to a scored cell: prompts, targets, extraction, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rgopd.cli.main import app
from rgopd.evaluate import cells
from rgopd.evaluate.cells import Cell
from rgopd.evaluate.harness import Harness
from rgopd.evaluate.replay import replay_engine
from rgopd.evaluate.suites import LIKELIHOOD, MATH, MMLU_STEM_GEN, MUSR_GEN, SCIQ_GEN, SUITES, Pin
from tests.evaluate.conftest import DATA

QUESTION = "How many legs have two cats?"


def row(path: str, config: dict[str, Any], index: int) -> dict[str, Any]:
    """One row of a public dataset's shape."""
    choices = config.get("doc_to_choice")
    return {
        "qintongli/GSM-Plus": {"question": QUESTION, "solution": "2*4=8\n#### 8", "answer": "8"},
        "EleutherAI/hendrycks_math": {"problem": QUESTION, "solution": "So it is $\\boxed{8}$.", "level": "1"},
        "TIGER-Lab/MMLU-Pro": {"question": QUESTION, "options": ["6", "8", "9"], "answer": "B", "category": "math",
                               "cot_content": "A: Let's think step by step. 2*4=8. The answer is (B)."},
        "cais/mmlu": {"question": QUESTION, "choices": ["6", "8", "9", "10"], "answer": 1},
        "TAUR-Lab/MuSR": {"narrative": "Ann was home.", "question": "Who was home?", "choices": "['Ann', 'Bob']",
                          "answer_index": 0, "answer_choice": "Ann"},
        "SaylorTwift/bbh": {"input": QUESTION, "target": choices[0] if isinstance(choices, list) else "8"},
    }[path] | {"index": index}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for all suites: made from what `--list-data` is made from."""
    root, harness = tmp_path_factory.mktemp("data"), Harness()
    for suite in SUITES.values():
        for pin in suite.pins:
            for source in harness.sources(pin):
                config = harness.config(pin, source.task)
                if (DATA / source.path).exists() or source.path == "rgopd/demo":
                    continue
                for split in source.splits:
                    target = root / source.wanted(split)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    text = "".join(json.dumps(row(source.path, config, i)) + "\n" for i in range(7))
                    if not target.exists() or isinstance(config.get("doc_to_choice"), list):
                        target.write_text(text)
    for path in DATA.rglob("*.jsonl"):
        copy = root / path.relative_to(DATA)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return root


@pytest.mark.parametrize("suite", ["paper-generative", "paper-likelihood"])
def test_a_whole_suite_runs_from_local_files(data: Path, student: Path, tmp_path: Path, suite: str) -> None:
    words = ["eval", student, "--suite", suite, "--data", data, "-o", tmp_path / "eval", "--limit", 1, "--lengths", 8]
    found = CliRunner().invoke(app, [*map(str, words), "--seeds", "1"])
    assert found.exit_code == 0, f"{found.output}{found.exception!r}"
    done = cells.read_scores(tmp_path / "eval")
    assert sum(len(columns) for columns in done.values()) == len(SUITES[suite].pins)
    bbh = next(pin for pin in SUITES[suite].pins if pin.label == "BBH")
    length = 8 if bbh.mode == "generate" else None
    assert cells.read(tmp_path / "eval", Cell(bbh, length, 0))["documents"] == (27 if length else 24)


def scored(pin: Pin, data: Path, response: str) -> tuple[float, str]:
    """(points, prompt) of a response to the first document."""
    from rgopd.evaluate.ask import ask

    harness = Harness()
    tasks = dict(list(harness.load(pin, data).items())[:1])
    (name,) = tasks
    engine = replay_engine([{"task": name, "doc_id": 0, "response": response}])
    _, samples = ask(engine, pin, tasks, length=8, seed=0, temperature=None, limit=1, chat=False)
    return samples[0]["points"], samples[0]["prompt"]


@pytest.mark.parametrize(
    ("pin", "right", "wrong", "shown"),
    [
        (MATH, "2*4 is $8$, so \\boxed{8}", "\\boxed{6}", "within \\boxed{}"),
        (MATH, "The final answer is $\\frac{16}{2}$.", "8 or 6, so $6$", QUESTION),
        (SCIQ_GEN, "So the answer is (A).", "the answer is (B)", "A. carbon dioxide\nB. helium"),
        (MMLU_STEM_GEN, "Is the answer is (A)? No, the answer is (B)", "the answer is (A)", "B. 8"),
        (MUSR_GEN, "the answer is (1)", "the answer is 2", "1 - Ann"),
    ],
    ids=lambda value: value.label if isinstance(value, Pin) else None,
)
def test_answers_are_extracted(data: Path, pin: Pin, right: str, wrong: str, shown: str) -> None:
    points, prompt = scored(pin, data, right)
    assert points == 1.0
    assert shown in prompt
    assert scored(pin, data, wrong)[0] == 0.0


def test_likelihood_pins_are_lm_evals_own_tasks() -> None:
    assert all(not pin.overrides for pin in LIKELIHOOD)
