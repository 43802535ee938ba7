from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.export import Run, export
from rgopd.trainer.run.resolved import write_resolved


def evaluation(step: int, accuracy: float) -> dict[str, Any]:
    domain = {"algebra": {"accuracy": accuracy, "problems": 10}}
    return {
        "event": "eval",
        "step": step,
        "accuracy": accuracy,
        "problems": 10,
        "by_domain": domain,
        "pass_at": {"4": accuracy},
    }


@pytest.fixture
def run(tmp_path: Path, student_folder: Path) -> Path:
    """A run folder as the trainer leaves it: the demo's student as last weights, another one as best."""
    folder = tmp_path / "runs" / "x"
    data = tmp_path / "rows.jsonl"
    meta = {"dataset": "openai/gsm8k", "layout": "gsm8k", "read": 9, "taken": {"math": 7}, "left_out": {"why": 2}}
    data.with_suffix(".meta.json").write_text(json.dumps(meta))
    config = TrainConfig.from_mapping(
        {"student": str(student_folder), "dataset": {"path": str(data)}, "output_dir": str(folder), "gate": "released"}
    )
    write_resolved(config)
    step = {"event": "step", "step": 0, "loss": 0.5, "kept_fraction": 0.75, "reward_mean": 0.25}
    rows = [evaluation(0, 0.2), {**step, "response_length_mean": 40.0}, evaluation(1, 0.6), evaluation(2, 0.5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "up.yaml").write_text(yaml.safe_dump({"teacher": {"model": "Qwen/Qwen2.5-14B-Instruct"}}))
    shutil.copytree(student_folder, folder / "student")
    shutil.copytree(student_folder, folder / "best")
    (folder / "best" / "best.json").write_text(json.dumps({"step": 1}))
    policy = folder / "policies" / "v00000001"
    policy.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(student_folder / name, policy / name)
    return folder


def test_the_folder_loads_and_computes_what_the_student_does(run: Path, tmp_path: Path, student_folder: Path) -> None:
    out = export(run, tmp_path / "out")
    with safe_open(out / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(k).dtype for k in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("12+30=", return_tensors="pt").input_ids
    original = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.bfloat16)
    exported = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert torch.equal(exported(ids).logits, original(ids).logits)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(student_folder).chat_template
    assert all(f.stat().st_mode & 0o444 == 0o444 for f in out.iterdir())
    assert not out.with_name("out.partial").exists()


def test_the_card_tells_results_gate_data_and_config_but_no_folders_of_this_machine(run: Path, tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"png")
    card = (export(run, tmp_path / "out", figure=figure) / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers"
    assert "# student, distilled from Qwen/Qwen2.5-14B-Instruct" in card
    assert "| greedy accuracy | 20.0% | 50.0% | +30.0 |" in card
    assert "| pass@4 | 20.0% | 50.0% | +30.0 |" in card
    assert "| greedy, algebra |" in card
    assert "| kept token fraction | 0.750 | 0.750 |" in card
    assert "judged by token; advantage 0: mask; margin 0.0 nats" in card
    assert "9 rows read, taken: 7 math, left out: 2" in card
    assert "![training dynamics](training.png)" in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])["optim"]["lr"] == 5e-6
    assert str(tmp_path) not in card
    assert str(Path.cwd()) not in card


@pytest.mark.parametrize(("which", "after"), [("best", "60.0%"), ("v00000001", "60.0%"), ("student", "50.0%")])
def test_the_figures_belong_to_the_weights(run: Path, tmp_path: Path, which: str, after: str) -> None:
    card = (export(run, tmp_path / "out", which=which) / "README.md").read_text()
    assert f"| greedy accuracy | 20.0% | {after} |" in card


def test_what_cannot_be_exported_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no weights 'v7'"):
        export(run, tmp_path / "out", which="v7")
    shutil.rmtree(run / "student")
    with pytest.raises(ConfigError, match="it has not ended; export `best`"):
        export(run, tmp_path / "out")
    with pytest.raises(ConfigError, match="is no run folder"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        export(run, tmp_path / "full", which="best")
    assert (tmp_path / "full" / "mine").read_text() == "keep"


def test_a_run_without_evaluation_says_so(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    card = (export(run, tmp_path / "out", which="student") / "README.md").read_text()
    assert "Not evaluated" in card
    assert "No step was taken." in card
    assert Run.read(run).evaluation_of("student") is None


def test_broken_weights_are_one_line_and_leave_nothing(run: Path, tmp_path: Path) -> None:
    (run / "student" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="student: .* cannot be loaded") as told:
        export(run, tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.glob("out*"))
