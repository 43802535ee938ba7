"""`rgopd init`: what it makes of data and machine, and that the commands it names take it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rgopd.cli.config_schema import schema
from rgopd.cli.doctor import run_doctor
from rgopd.cli.hardware import GIB, Hardware
from rgopd.cli.init import as_commented, run_init, sections_for
from rgopd.cli.plan import run_plan
from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.guess import guess

CPU = Hardware("Linux", 2, 16 * GIB, (), 0, False)


def data(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_config_passes_doctor_and_plan(
    tmp_path: Path, student_folder: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data(tmp_path / "d.jsonl", [{"question": f"{n}+1=", "answer": str(n + 1)} for n in range(8)])
    target = tmp_path / "my.yaml"
    student, teacher = str(student_folder), str(teacher_folder)
    given = {"split": "", "force": False}
    assert run_init(target, student, teacher, str(rows), tmp_path / "run", **given) == 0  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "'answer' holds numbers or formulas, which are compared by value" in out
    assert f"rgopd up -c {target}" in out
    text = target.read_text()
    assert text.startswith("# yaml-language-server: $schema=rgopd.schema.json\n")
    assert "paper, released or off" in text
    jsonschema.validate(yaml.safe_load(text), schema())
    assert (tmp_path / "rgopd.schema.json").exists()
    assert run_doctor([target], []) == 0
    assert run_plan([target], [], "cpu", 0.0, 0, None) == 0
    with pytest.raises(ConfigError, match="--force"):
        run_init(target, student, teacher, str(rows), tmp_path / "run", **given)  # type: ignore[arg-type]


def test_data_that_nothing_can_check_is_refused_with_the_reason(
    tmp_path: Path, student_folder: Path, teacher_folder: Path
) -> None:
    rows = data(tmp_path / "d.jsonl", [{"prompt": "Tell a story.", "output": "Once upon a time " * 10}])
    with pytest.raises(ConfigError, match="'output' holds long text, which no rule can judge"):
        run_init(tmp_path / "c", str(student_folder), str(teacher_folder), str(rows), tmp_path, split="", force=False)
    with pytest.raises(ConfigError, match=r"rgopd init needs --student where nobody can be asked"):
        run_init(tmp_path / "c", "", "", "", tmp_path, split="", force=False)


@pytest.mark.parametrize(
    ("row", "kind", "settings"),
    [
        ({"prompt": "1+1", "kind": "math", "reference": "2"}, "math", {}),
        ({"question": "q", "answer": "so\n#### 7"}, "math", {"layout": "gsm8k"}),
        ({"problem": "q", "solution": "so \\boxed{7}", "level": "5"}, "math", {"layout": "math"}),
        ({"task_id": 1, "text": "q", "test_list": ["assert f(1)"]}, "code", {"layout": "mbpp"}),
        ({"prompt": "q", "reward_model": {"ground_truth": "1"}, "data_source": "x"}, "math", {"layout": "eurus"}),
        ({"prompt": "q", "tests": ["assert f(1)"]}, "code", {"kind": "code"}),
        (
            {"problem": "q", "answer": "\\frac{1}{2}"},
            "math",
            {"kind": "math", "map": {"prompt": "problem", "reference": "answer"}},
        ),
        ({"prompt": "q", "answer": "1,234.5"}, "math", {"kind": "math", "map": {"reference": "answer"}}),
        ({"prompt": "q", "reference": "(B)"}, "choice", {"kind": "choice"}),
        ({"prompt": "q", "target": "Paris"}, "exact", {"kind": "exact", "map": {"reference": "target"}}),
        ({"prompt": "q"}, "", {}),
        ({"a": 1, "b": 2}, "", {}),
    ],
)
def test_what_rows_allow(row: dict[str, Any], kind: str, settings: dict[str, Any]) -> None:
    found = guess([row, row])
    assert (found.kind, found.settings) == (kind, settings)
    assert found.why


def test_a_gpu_changes_the_numbers(student_folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
    four = Hardware("Linux", 32, 256 * GIB, ("NVIDIA H100",) * 4, 79 * GIB, False)

    def made(machine: Hardware) -> dict[str, Any]:
        return sections_for(str(student_folder), str(teacher_folder), {"path": "d"}, machine, tmp_path / "run")

    assert made(CPU)["train"]["dtype"] == "float32"
    assert "up" not in made(CPU)
    on_gpu = made(four)
    assert on_gpu["train"]["dtype"] == on_gpu["sampler"]["dtype"] == "bfloat16"
    assert on_gpu["up"]["gpus"] == {"train": "0", "sampler": "1", "teacher": "2"}
    text = as_commented(on_gpu, four, guess([{"prompt": "q", "answer": "1"}]), "s.json")
    assert "4 x NVIDIA H100 (79 GiB)" in text
    assert yaml.safe_load(text) == on_gpu
