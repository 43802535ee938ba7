from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from rgopd.common.policies import PolicyStore
from rgopd.common.streams import Streams
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.records.journal import Journal
from rgopd.trainer.records.metrics import RunState, read_json_lines
from rgopd.trainer.records.monitors import Monitors
from rgopd.trainer.rollouts.orchestrator import Orchestrator
from rgopd.trainer.run.publish import Publisher
from rgopd.trainer.run.validation import Validation


class Scores:
    """In the orchestrator's place: an accuracy for each version."""

    def __init__(self, *accuracies: float) -> None:
        self.accuracies = list(accuracies)

    def evaluate(self, prompts: object, version: int) -> dict[str, Any]:
        return {"accuracy": self.accuracies.pop(0), "problems": 3}


def life(folder: Path, student: Path, streams: Streams, start: int, scores: Scores, **settings: Any) -> Validation:
    """One life of a run that starts at step `start`: real files, real monitors of none."""
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "1+1=", "kind": "math", "reference": "2"}) + "\n")
    config = TrainConfig.from_mapping(
        {
            "student": str(student),
            "dataset": {"path": str(folder / "prompts.jsonl")},
            "output_dir": str(folder),
            "eval": {"every": 10, **settings},
        }
    )
    checkpoints = cast(Any, SimpleNamespace(whole=list))
    publisher = Publisher(config, PolicyStore(streams), checkpoints)
    journal = Journal(folder, start, Monitors([]), RunState(streams))
    tokenizer = AutoTokenizer.from_pretrained(student)
    prompts = PromptSource(config.dataset, tokenizer)
    return Validation(config, prompts, cast(Orchestrator, scores), publisher, journal, tokenizer, None)


def policy(folder: Path, student: Path, version: int) -> None:
    target = folder / "policies" / f"v{version:08d}"
    target.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (target / name).write_bytes((student / name).read_bytes())


def test_the_best_student_is_kept_before_its_row_is_written(
    tmp_path: Path, student_folder: Path, streams: Streams
) -> None:
    """A life that ends in between must evaluate again: one that finds the row would leave an older best in place."""
    first = life(tmp_path, student_folder, streams, 10, Scores(0.5))
    with pytest.raises(OSError, match="v00000010"):  # the copy fails: its weights are not there
        first.evaluate(10)
    assert not first.has_evaluated(10)
    first.journal.close()
    assert read_json_lines(tmp_path / "metrics.jsonl") == []

    policy(tmp_path, student_folder, 10)
    second = life(tmp_path, student_folder, streams, 10, Scores(0.5))
    second.catch_up(10)
    second.journal.close()
    (row,) = read_json_lines(tmp_path / "metrics.jsonl")
    assert row == {"event": "eval", "step": 10, "accuracy": 0.5, "problems": 3}
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == row
    assert [r["event"] for r in read_json_lines(tmp_path / "timings.jsonl")] == ["eval"]


def test_a_resumed_life_knows_what_was_evaluated_and_which_was_best(
    tmp_path: Path, student_folder: Path, streams: Streams
) -> None:
    for version in (0, 10, 20):
        policy(tmp_path, student_folder, version)
    first = life(tmp_path, student_folder, streams, 0, Scores(0.5, 0.4), patience=2)
    first.catch_up(0)
    assert first.evaluate(10)
    first.journal.close()
    second = life(tmp_path, student_folder, streams, 10, Scores(0.3), patience=2)
    second.catch_up(10)  # made already, and kept: nothing is asked for
    assert not second.best.exhausted
    assert second.evaluate(20)
    assert second.best.exhausted
    assert second.best.best_step == 0
    second.say_why_stopped(20)
    second.journal.close()
    rows = read_json_lines(tmp_path / "metrics.jsonl")
    assert [(r["event"], r["step"]) for r in rows] == [("eval", 0), ("eval", 10), ("eval", 20), ("early_stop", 20)]
    assert rows[-1] == {"event": "early_stop", "step": 20, "metric": "accuracy", "best": 0.5, "best_step": 0}
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 0
