"""Names of suites and tasks, and files in place of the hub: what needs no lm-eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rgopd.cli.evaluate import Options, narrowed, numbers, parse_floors, parse_model_args
from rgopd.common.errors import ConfigError
from rgopd.evaluate.cells import Cell
from rgopd.evaluate.data import Source, local_overrides
from rgopd.evaluate.suites import BBH, GSM8K, LIKELIHOOD, SCIQ, SCIQ_GEN, SUITES, TABLE_1, TABLE_3, named


def test_the_papers_suite_is_the_papers() -> None:
    suite = SUITES["paper"]
    assert [pin.label for pin in suite.pins] == ["GSM8K", "GSM+", "MATH", "MPMath", "MBPP", "IFEval"]
    assert (suite.lengths, suite.temperature, suite.seeds) == ((1024, 8096), 0.6, 3)
    assert SUITES["paper-generative"].pins == TABLE_1 + TABLE_3
    assert SUITES["paper-likelihood"].pins == LIKELIHOOD
    assert SUITES["paper-likelihood"].seeds == 1


def test_names_mean_the_pinned_way_of_asking() -> None:
    assert named("gsm8k").pins == (GSM8K,)
    assert named("sciq, leaderboard_bbh").pins == (SCIQ, BBH)  # as lm-eval asks under these names
    assert named("MSTEM").pins[0].mode == "generate"  # a column of Table 1 or 3 by its label
    assert named("arc_easy").pins[0].task == "arc_easy"


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gsm8k_cot'"):
        named("gsm8k_cott", {"gsm8k_cot": 1, "mmlu": 2})
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        named("papr", {})
    with pytest.raises(ConfigError, match="suites are paper"):
        named("zzzzzzz", {})
    with pytest.raises(ConfigError, match="empty"):
        named(" , ")


def test_two_ways_of_asking_have_two_places() -> None:
    assert Cell(SCIQ, None, 0).place != Cell(SCIQ_GEN, None, 0).place


def test_options_lie_over_the_suite() -> None:
    suite = narrowed(SUITES["paper"], Options(lengths="256", temperature=0.0, limit=5))
    assert (suite.lengths, suite.temperature, suite.seeds, suite.limit) == ((256,), 0.0, 1, 5)  # greedy: one seed
    assert narrowed(SUITES["paper"], Options(seeds=5)).seeds == 5
    for bad in ("0", "-3", "12,many"):
        with pytest.raises(ConfigError, match="--lengths"):
            numbers("--lengths", bad)
    assert parse_model_args(["tensor_parallel_size=2,enforce_eager=true"]) == {
        "tensor_parallel_size": 2,
        "enforce_eager": True,
    }
    with pytest.raises(ConfigError, match="key=value"):
        parse_model_args(["tensor_parallel_size"])
    assert parse_floors(["gsm8k=50"], ["GSM8K"]) == {"GSM8K": 50.0}
    with pytest.raises(ConfigError, match="BENCHMARK=PERCENT"):
        parse_floors(["GSM8K"], ["GSM8K"])


CONFIG = {"dataset_path": "openai/gsm8k", "dataset_name": "main", "test_split": "test", "fewshot_split": "train"}


def rows(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"question": "?", "answer": "#### 1"}) + "\n")
    return path


@pytest.mark.parametrize("layout", ["openai/gsm8k/main", "gsm8k/main", "openai/gsm8k", "openai/gsm8k/data/main"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_files_are_found_where_people_put_them(tmp_path: Path, layout: str, suffix: str) -> None:
    source = Source.of("gsm8k", CONFIG)
    files = {split: rows(tmp_path / layout / f"{split}{suffix}") for split in ("test", "train")}
    found = local_overrides([source], tmp_path)["gsm8k"]
    assert found["dataset_path"] == "json"
    assert found["dataset_name"] is None
    assert found["dataset_kwargs"]["data_files"] == {split: [str(path)] for split, path in files.items()}


def test_another_configurations_file_is_not_taken(tmp_path: Path) -> None:
    for folder in ("gsm8k/socratic", "gsm8k"):
        for split in ("test", "train"):
            rows(tmp_path / folder / f"{split}.jsonl")
    with pytest.raises(ConfigError, match="openai/gsm8k/main/test"):
        local_overrides([Source.of("gsm8k", CONFIG)], tmp_path)


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    other = Source.of("ifeval", {"dataset_path": "google/IFEval", "test_split": "train"})
    with pytest.raises(ConfigError) as told:
        local_overrides([Source.of("gsm8k", CONFIG), other], tmp_path)
    for path in ("openai/gsm8k/main/test.jsonl", "openai/gsm8k/main/train.jsonl", "google/IFEval/train.jsonl"):
        assert path in str(told.value)


def test_only_the_splits_that_are_read_are_asked_for() -> None:
    assert Source.of("gsm8k", CONFIG).splits == ("test", "train")
    assert Source.of("x", {**CONFIG, "fewshot_split": None, "training_split": None}).splits == ("test",)
    samples = {**CONFIG, "fewshot_split": None, "training_split": "train", "fewshot_config": {"samples": "utils.few"}}
    assert Source.of("x", samples).splits == ("test",)
