from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rgopd.cli import main as command

Fails = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path, student_folder: Path, teacher_folder: Path) -> dict[str, Any]:
    """A whole config of the demo's models, with four rows."""
    rows = [{"id": str(n), "prompt": f"{n}+1=", "kind": "math", "reference": str(n + 1)} for n in range(4)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "teacher": {"model": str(teacher_folder)},
        "sampler": {"student": str(student_folder)},
        "train": {
            "student": str(student_folder),
            "dataset": {"path": str(data)},
            "output_dir": str(tmp_path / "run"),
            "sampling": {"prompts_per_step": 2, "n": 2, "max_new_tokens": 8},
        },
    }


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Run `rgopd ARGUMENTS` (a mapping becomes a config file); its error, which must be short."""

    def run(*arguments: Any) -> str:
        words = ["rgopd"]
        for argument in arguments:
            if isinstance(argument, dict):
                file = tmp_path / "my.yaml"
                file.write_text(yaml.safe_dump(argument))
                words += ["--config", str(file)]
            else:
                words.append(str(argument))
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            command.main()
        told = capsys.readouterr()
        assert end.value.code not in (0, None)
        assert "Traceback" not in told.err + told.out
        assert 1 <= len(told.err.strip().splitlines()) <= 3, told.err
        assert not (tmp_path / "run").exists(), "nothing was started"
        return told.err

    return run


def changed(config: dict[str, Any], **sections: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(config))
    for section, values in sections.items():
        result.setdefault(section, {}).update(values)
    return result


def rows(config: dict[str, Any], *lines: Any) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    Path(config["train"]["dataset"]["path"]).write_text(text)
