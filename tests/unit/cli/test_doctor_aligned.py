"""What doctor says of a teacher with another tokenizer: how much of the student it can judge, and what it reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

from rgopd.cli.alignment import aligned_checks, aligns
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.teacher.config import TeacherConfig
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.demo.simulate import CHECKPOINTS
from rgopd.trainer.demo.tokenizer import save_tokenizer
from tests.unit.teacher.alignment.kinds import MAKERS


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    teacher = tmp_path / "teacher"
    save_tokenizer(MAKERS["qwen"](), teacher)
    Qwen2Config(vocab_size=600).save_pretrained(teacher)
    rows = [{"prompt": [{"role": "user", "content": f"{n}+1"}], "kind": "math", "reference": "2"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = {"student": str(CHECKPOINTS / "student"), "dataset": {"path": str(tmp_path / "rows.jsonl")}}
    return {"teacher": {"model": str(teacher)}, "train": train}


def test_doctor_shows_the_share_of_tokens_that_map(sections: dict[str, Any]) -> None:
    checks = dict(aligned_checks(sections))
    said = checks["tokenizer"]()
    shares = re.search(r"(\d+) of 102 ids have a counterpart; of \d+ tokens .* (\d+)% have a value .* (\d+)% map", said)
    assert shares is not None, said
    ids, covered, paired = map(int, shares.groups())
    assert 90 <= ids <= 102
    assert 0 < paired <= covered <= 100
    assert "<|im_end|>" in checks["eos"]()
    assert "<|im_start|>user" in checks["chat template"]()


def test_doctor_reads_the_runs_own_prompts_under_the_teachers_template(sections: dict[str, Any]) -> None:
    path = Path(sections["teacher"]["model"]) / "chat_template.jinja"
    refuses = "{% if messages[0].content[0] == '2' %}{{ raise_exception('no twos') }}{% endif %}"
    path.write_text(refuses + path.read_text())
    with pytest.raises(InvalidInput, match="cannot render the prompt's messages: no twos"):
        dict(aligned_checks(sections))["chat template"]()


def test_rows_with_environments_need_a_teachers_template_that_goes_on(sections: dict[str, Any]) -> None:
    """A conversation is read under it; one that cannot go on is named before anything starts."""
    dataset = Path(sections["train"]["dataset"]["path"])
    rows = [json.loads(line) | {"environment": "feedback"} for line in dataset.read_text().splitlines()]
    dataset.write_text("\n".join(map(json.dumps, rows)))
    assert "<|im_start|>user" in dict(aligned_checks(sections))["chat template"]()
    train, teacher = trained(sections)
    assert aligns(train, teacher)
    path = Path(sections["teacher"]["model"]) / "chat_template.jinja"
    path.write_text("{% for m in messages[-2:] %}" + path.read_text().partition("%}")[2])
    for asked in (lambda: dict(aligned_checks(sections))["chat template"](), lambda: aligns(train, teacher)):
        with pytest.raises(ConfigError, match="the teacher's chat template is not prefix-stable"):
            asked()


def trained(sections: dict[str, Any]) -> tuple[TrainConfig, TeacherConfig]:
    train = TrainConfig.from_mapping({**sections["train"], "output_dir": "out", "run_id": "r"})
    return train, TeacherConfig.from_mapping(sections["teacher"])
