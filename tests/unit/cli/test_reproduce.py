"""The whole protocol as configs and a plan; running it is `rgopd reproduce paper --scale tiny` itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rgopd.cli import reproduce
from rgopd.cli.checked import check_sections
from rgopd.cli.main import app
from rgopd.common.errors import ConfigError
from rgopd.trainer.demo.task import generate

QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 32768}
SMALL = {**QWEN, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
         "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}  # fmt: skip
LARGE = {**QWEN, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
         "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False}  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """The pair's config.json, as --set for the gpu scale: a plan reads no weights."""
    for name, config in (("student", SMALL), ("teacher", LARGE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    s, t = tmp_path / "student", tmp_path / "teacher"
    return [f"train.student={s}", f"sampler.student={s}", f"teacher.model={t}"]


def test_every_tiny_run_is_a_config_that_starts(tmp_path: Path) -> None:
    protocol = reproduce.tiny(tmp_path, ["train.optim.lr=2.0e-3"], steps=7, problems=52)
    protocol.prepare(tmp_path)
    for method, changes in reproduce.METHODS.items():
        sections = protocol.sections(method, changes, tmp_path / "runs" / reproduce.slug(method))
        check_sections(sections)
        assert sections["train"]["steps"] == 7
        assert sections["train"]["optim"]["lr"] == 2e-3
        assert sections["train"]["objective"]["name"] == changes["objective"]["name"]


def test_the_demos_rows_become_four_benchmarks(tmp_path: Path) -> None:
    rows = generate(0, 104, "eval")
    reproduce.write_demo_benchmark(tmp_path, rows)
    found: dict[str, list[dict[str, Any]]] = {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in tmp_path.rglob("test.jsonl")
    }
    assert set(found) == {"A-math", "A-code", "B-math", "B-code"}
    assert sum(map(len, found.values())) == 104
    for row in found["A-code"]:
        names: dict[str, Any] = {"f": lambda a, b: None}
        for test in row["test_list"]:
            with pytest.raises(AssertionError):
                exec(test, names)  # our own row, and a function that is right nowhere
    with pytest.raises(ConfigError, match="holds another run's data"):
        reproduce.write_demo_benchmark(tmp_path, generate(1, 104, "eval"))


def test_the_gpu_plan_is_told_before_anything_starts(models: list[str], tmp_path: Path) -> None:
    words = ["reproduce", "paper", "--scale", "gpu", "--plan", "--device", "h100", "--gpu-hour", "3",
             "-o", str(tmp_path / "out")]  # fmt: skip
    for model in models:
        words += ["--set", model]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, f"{found.output}{found.exception!r}"
    for line in ("train Reverse KL", "train GRPO", "evaluate Teacher", "all, one after the other", "cost"):
        assert line in found.output
    assert not (tmp_path / "out").exists()


def test_the_gpu_scale_without_a_gpu_says_so(models: list[str], tmp_path: Path) -> None:
    words = ["reproduce", "paper", "--scale", "gpu", "--device", "cpu", "-o", str(tmp_path / "out")]
    for model in models:
        words += ["--set", model]
    with pytest.raises(ConfigError, match="--plan --device h100"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_missing_training_rows_come_with_the_command_that_makes_them(models: list[str], tmp_path: Path) -> None:
    protocol = reproduce.gpu(tmp_path, [*models, f"train.dataset.path={tmp_path / 'none.jsonl'}"], None)
    with pytest.raises(ConfigError, match="rgopd data ultrainteract"):
        protocol.prepare(tmp_path)


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="one protocol"):
        CliRunner().invoke(app, ["reproduce", "book"], catch_exceptions=False)
