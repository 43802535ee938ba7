"""Conversations under a teacher with another tokenizer: stopped in the middle and resumed, the same run."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.trainer.demo.tokenizer import save_tokenizer
from rgopd.trainer.records.metrics import read_json_lines
from tests.chaos.test_up import start, steps_done, wait_steps
from tests.unit.teacher.alignment.kinds import MAKERS

STEPS = 4


def foreign_teacher(folder: Path) -> None:
    """Of byte pairs, another template and another end of turn than the student's characters."""
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(MAKERS["qwen"](), folder)


def same(one: Any, other: Any) -> bool:
    """Equal, up to what a teacher's log-prob owes to the batch that it was computed in."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == pytest.approx(other, rel=1e-6)) if isinstance(one, float) else bool(one == other)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("across", ["uld", "ratio"])
def test_stopped_and_resumed_it_is_the_same_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, across: str
) -> None:
    monkeypatch.chdir(repository)
    foreign_teacher(tmp_path / "teacher")

    def arguments(folder: Path) -> list[str]:
        settings = {
            "teacher.model": tmp_path / "teacher",
            "train.objective": json.dumps({"name": "rg_opd", "options": {"across": across}}),
            "train.output_dir": folder,
            "train.steps": STEPS,
            "train.checkpoint.every": 1,
            "train.sampling.prompts_per_step": 4,
            "up.samplers": 1,
        }
        named = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return ["up", "--config", "examples/environments/run.yaml", *named]

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    process = start(arguments(whole), tmp_path / "whole.log")
    assert process.wait(400) == 0, (tmp_path / "whole.log").read_text()[-3000:]
    process = start(arguments(parted), tmp_path / "parted.log")
    wait_steps(process, parted, 1)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert steps_done(parted) < STEPS, "stopped too late to show anything"
    process = start(arguments(parted), tmp_path / "parted.log")
    assert process.wait(400) == 0, (tmp_path / "parted.log").read_text()[-3000:]
    both = [read_json_lines(folder / "metrics.jsonl") for folder in (whole, parted)]
    assert same(*both)
    rows = [row for row in both[0] if row["event"] == "step"]
    assert len(rows) == STEPS
    assert all(row["stage_failures"] == {} for row in rows), "every conversation was scored"
    assert all(row["turns_mean"] > 1 for row in rows)
    assert any(row["loss"] > 0 for row in rows)
