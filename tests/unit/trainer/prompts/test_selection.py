"""What a step takes, by the pass rates that are known when it asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.rollouts.pass_rates import FILE, PassRates


@pytest.fixture(scope="session")
def tokenizer(student_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(student_folder)


def source(tmp_path: Path, tokenizer: Any, selection: Any, rates: dict[int, float] | None = None) -> PromptSource:
    rows: list[dict[str, Any]] = [
        {"id": f"p{n}", "prompt": "1+1=", "kind": "math", "reference": "2"} for n in range(40)
    ]
    for number, rate in (rates or {}).items():
        rows[number]["pass_rate"] = rate
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return PromptSource(DatasetConfig.model_validate({"path": str(path), "selection": selection}), tokenizer)


def names(prompts: PromptSource, step: int, before: int | None = None) -> list[str]:
    return [p.prompt_id for p in prompts.of_step(0, step, 8, step if before is None else before)]


def test_without_a_selection_nothing_changes(tmp_path: Path, tokenizer: Any) -> None:
    prompts = source(tmp_path, tokenizer, {})
    assert names(prompts, 3) == [prompts.at(0, 24 + i).prompt_id for i in range(8)]


@pytest.mark.parametrize("word", [True, "skip", {"skip": True}])
def test_what_is_always_or_never_solved_is_left_out(tmp_path: Path, tokenizer: Any, word: Any) -> None:
    prompts = source(tmp_path, tokenizer, word, {n: float(n % 2) for n in range(30)})
    for step in range(20):
        taken = names(prompts, step)
        assert set(taken) <= {f"p{n}" for n in range(30, 40)}
        assert len(set(taken)) == 8


def test_only_rates_of_earlier_steps_count(tmp_path: Path, tokenizer: Any) -> None:
    prompts = source(tmp_path, tokenizer, "skip")
    plain = names(prompts, 0)
    for name in plain:
        prompts.selection.note(4, name, 1.0)
    assert names(prompts, 0) == plain, "a step that is asked for again takes the same"
    fifth = names(prompts, 5, before=5)
    assert not set(fifth) & set(plain)
    assert names(prompts, 5, before=4) == [prompts.at(0, 40 + i).prompt_id for i in range(8)]


def test_a_prompt_comes_back_after_a_while(tmp_path: Path, tokenizer: Any) -> None:
    prompts = source(tmp_path, tokenizer, {"skip": True, "recheck_steps": 10})
    for n in range(40):
        prompts.selection.note(0, f"p{n}", 0.0 if n else 0.5)
    assert "p0" in names(prompts, 3)
    own = [prompts.at(0, 8 * 20 + i).prompt_id for i in range(8)]
    assert names(prompts, 20) == own


def test_a_curriculum_takes_what_is_nearest_to_the_target(tmp_path: Path, tokenizer: Any) -> None:
    rates = {n: n / 39 for n in range(40)}

    def mean(target: float) -> float:
        prompts = source(tmp_path, tokenizer, {"target": target, "candidates": 8}, rates)
        taken = [int(name[1:]) / 39 for step in range(10) for name in names(prompts, step)]
        return sum(taken) / len(taken)

    assert mean(0.9) > 0.75
    assert mean(0.1) < 0.25
    assert 0.4 < mean(0.5) < 0.6


def test_a_dataset_smaller_than_a_step_still_fills_it(tmp_path: Path, tokenizer: Any) -> None:
    prompts = source(tmp_path, tokenizer, "skip")
    assert len(prompts.of_step(0, 0, 64, 0)) == 64


def test_a_resumed_run_takes_the_same(tmp_path: Path, tokenizer: Any) -> None:
    """Rates are kept in the run's folder; rows of steps that are made again are dropped."""

    def live(steps: range, folder: Path, start: int) -> list[list[str]]:
        prompts = source(tmp_path, tokenizer, "skip")
        rates = PassRates(prompts, folder, start)
        taken = []
        for step in steps:
            taken.append(names(prompts, step, before=step - 1))
            for name in taken[-1]:
                rates.note(step, name, [1.0, 1.0, None] if int(name[1:]) % 3 else [1.0, 0.0])
            rates.release(step)
        return taken

    whole = live(range(12), tmp_path / "a", 0)
    assert live(range(7), tmp_path / "b", 0) == whole[:7]
    assert live(range(5, 12), tmp_path / "b", 5) == whole[5:]
    assert (tmp_path / "a" / FILE).read_text() == (tmp_path / "b" / FILE).read_text()
    assert all(int(name[1:]) % 3 == 0 for name in whole[11])
