"""What the deployments' `prepare` step writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rgopd.cli.demo_files import EVAL_ROWS, TRAIN_ROWS, main, write_demo_files
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource


def test_models_and_rows_can_be_used_as_they_are(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_demo_files(tmp_path / "models", tmp_path / "data")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "models/student")
    for name, count in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
        source = PromptSource(DatasetConfig(path=tmp_path / f"data/{name}.jsonl"), tokenizer)
        assert len(source) == count
    for model in ("teacher", "student"):
        assert (tmp_path / "models" / model / "model.safetensors").stat().st_size > 0


def test_running_it_again_changes_nothing_and_leaves_no_part(tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    write_demo_files(tmp_path / "m", tmp_path / "d")
    before = content()
    write_demo_files(tmp_path / "m", tmp_path / "d")
    assert content() == before
    assert not [name for name in before if name.endswith(".partial")]
    assert all(json.loads(line)["kind"] for line in (tmp_path / "d/eval.jsonl").read_text().splitlines())


def test_the_command_tells_what_it_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "MODELS DATA" in capsys.readouterr().err
    assert main([str(tmp_path / "m"), str(tmp_path / "d")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
