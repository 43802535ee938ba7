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


def write(path: Path, prefix: str, rates: list[float | None]) -> str:
    row = {"prompt": "1+1=", "kind": "math", "reference": "2"}
    rows = [row | {"id": f"{prefix}{n}"} | ({} if r is None else {"pass_rate": r}) for n, r in enumerate(rates)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def drawn(prompts: PromptSource, steps: int, count: int = 8) -> list[str]:
    return [p.prompt_id for step in range(steps) for p in prompts.of_step(0, step, count, step)]


def test_few_that_are_left_of_many_are_found(tmp_path: Path, tokenizer: Any) -> None:
    """996 of 1000 are always or never solved: the other four fill every step, none of the 996 ever does."""
    path = write(tmp_path / "d.jsonl", "p", [None if n % 250 == 3 else float(n % 2) for n in range(1000)])
    prompts = PromptSource(DatasetConfig.model_validate({"path": path, "selection": "skip"}), tokenizer)
    taken = drawn(prompts, 200, 4)
    assert {name: taken.count(name) for name in set(taken)} == dict.fromkeys(["p3", "p253", "p503", "p753"], 200)


def test_a_mixture_keeps_its_shares_where_prompts_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    """Weights 3:1, sizes 40:2000, half of the small one settled: others of it take their places."""
    small = write(tmp_path / "a.jsonl", "a", [float(n % 2) if n % 4 else 0.5 for n in range(40)])
    large = write(tmp_path / "b.jsonl", "b", [None] * 2000)
    given = {"path": small, "weight": 3, "mix": [{"path": large, "weight": 1}], "selection": "skip"}
    taken = drawn(PromptSource(DatasetConfig.model_validate(given), tokenizer), 160, 8)
    from_small = [name for name in taken if name.startswith("a")]
    assert len(from_small) == 960, "of 1280"
    assert {int(name[1:]) % 4 for name in from_small} == {0}
    curriculum = {**given, "selection": {"target": 0.4, "candidates": 4}}
    taken = drawn(PromptSource(DatasetConfig.model_validate(curriculum), tokenizer), 160, 8)
    assert sum(name.startswith("a") for name in taken) == 960


def test_a_dataset_with_nothing_left_gives_its_places_to_the_others(tmp_path: Path, tokenizer: Any) -> None:
    done = write(tmp_path / "a.jsonl", "a", [1.0] * 30)
    given = {"path": done, "mix": [{"path": write(tmp_path / "b.jsonl", "b", [None] * 30)}], "selection": "skip"}
    taken = drawn(PromptSource(DatasetConfig.model_validate(given), tokenizer), 20)
    assert all(name.startswith("b") for name in taken)


def test_the_same_id_in_two_datasets_is_two_prompts(tmp_path: Path, tokenizer: Any) -> None:
    one, other = write(tmp_path / "a.jsonl", "p", [1.0] * 9), write(tmp_path / "b.jsonl", "p", [0.5] * 9)
    given = {"path": one, "mix": [{"path": other}], "selection": "skip"}
    taken = drawn(PromptSource(DatasetConfig.model_validate(given), tokenizer), 5, 4)
    assert {name.partition("~")[2][:1] for name in taken} == {"1"}, "those of the second"


def test_a_curriculum_goes_from_easy_to_hard_as_its_target_says(tmp_path: Path, tokenizer: Any) -> None:
    """Of few candidates the nearest: with n candidates, uniform rates and target 1 the mean rate is n/(n+1)."""
    path = write(tmp_path / "d.jsonl", "p", [n / 1000 for n in range(1001)])

    def mean(target: float, candidates: int) -> float:
        selection = {"target": target, "candidates": candidates}
        prompts = PromptSource(DatasetConfig.model_validate({"path": path, "selection": selection}), tokenizer)
        taken = [int(name[1:]) / 1000 for name in drawn(prompts, 100)]
        return sum(taken) / len(taken)

    for candidates in (2, 4, 9):
        expected = candidates / (candidates + 1)
        assert mean(1.0, candidates) == pytest.approx(expected, abs=0.03)
        assert mean(0.0, candidates) == pytest.approx(1 - expected, abs=0.03)


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


def test_a_curriculum_in_a_mixture_with_a_small_part_chooses_in_the_others(tmp_path: Path, tokenizer: Any) -> None:
    """Once the five of the small part are taken, its places go to others, by the target as everywhere."""
    small = write(tmp_path / "a.jsonl", "a", [0.5] * 5)
    large = write(tmp_path / "b.jsonl", "b", [(n % 100) / 100 for n in range(400)])
    given = {"path": small, "mix": [{"path": large}], "selection": {"target": 0.9, "candidates": 16}}
    prompts = PromptSource(DatasetConfig.model_validate(given), tokenizer)
    rates = [int(name[1:]) % 100 / 100 for name in drawn(prompts, 10, 16) if name.startswith("b")]
    assert len(rates) >= 110, "of 160"
    assert sum(rates) / len(rates) > 0.8


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
