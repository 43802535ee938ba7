"""What `rgopd plan` knows of a run's prompts, and of the step that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.cli.plan import Planner
from rgopd.cli.prompt_lengths import ROWS, mean_prompt
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.seconds import Device


def run(student: Path, rows: Path, **dataset: Any) -> TrainConfig:
    given = {"student": str(student), "steps": 1, "dataset": {"path": str(rows), **dataset}}
    return TrainConfig.from_mapping(given)


def write(path: Path, prompts: list[str]) -> Path:
    lines = [json.dumps({"prompt": prompt, "kind": "math", "reference": "1"}) for prompt in prompts]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_the_mean_is_that_of_the_first_rows(student_folder: Path, tmp_path: Path) -> None:
    short, long = "1+1", "1+1+1+1+1+1+1+1"
    first = [short, long] * (ROWS // 2)
    rows = write(tmp_path / "rows.jsonl", [*first, *[long] * 100])
    ids = AutoTokenizer.from_pretrained(student_folder)
    chat = [[{"role": "user", "content": text}] for text in (short, long)]
    texts = [ids.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in chat]
    lengths = [len(ids(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert lengths[1] > lengths[0]
    assert mean_prompt(run(student_folder, rows)) == sum(lengths) / 2
    assert mean_prompt(run(student_folder, rows, limit=1)) == lengths[0]
    mixed = run(student_folder, write(tmp_path / "one.jsonl", [short]), mix=[{"path": str(rows), "limit": 1}])
    assert mean_prompt(mixed) == lengths[0]


@pytest.mark.parametrize("prompts", [[], ["1+1"]])
def test_where_it_cannot_be_known_none_is_named(student_folder: Path, tmp_path: Path, prompts: list[str]) -> None:
    rows = write(tmp_path / "rows.jsonl", prompts)
    assert bool(mean_prompt(run(student_folder, rows))) == bool(prompts)
    assert mean_prompt(run(tmp_path / "absent", rows)) == 0
    assert mean_prompt(run(student_folder, tmp_path / "absent.jsonl")) == 0
    assert mean_prompt(run(student_folder, rows, streaming=True)) == 0


@pytest.mark.parametrize(("given", "tokens", "rows"), [(16_384, 4 * 160, 4 * 32), (100, 160, 4 * 32)])
def test_a_teachers_forward_has_no_more_than_a_step(student_folder: Path, given: int, tokens: int, rows: int) -> None:
    sections: dict[str, Any] = {
        "teacher": {"model": str(student_folder), "max_batch_tokens": given},
        "sampler": {"student": str(student_folder)},
        "train": {
            "student": str(student_folder),
            "dataset": {"path": "d", "max_prompt_tokens": 128},
            "sampling": {"prompts_per_step": 2, "n": 2, "max_new_tokens": 32},
        },
    }
    plan = Planner(sections, Device("cpu", 1 << 34, 1e11, 1e10), on_gpu=False).plan()
    assert plan.teacher_tokens == tokens
    [need] = [need for need in plan.loads[0] if need.process == "teacher"]
    assert need.parts["logits of a chunk"] == 3 * 4 * rows * plan.shapes[1].vocab
