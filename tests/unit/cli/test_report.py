from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rgopd.cli.report import accuracy_rows, running_mean, summary_table, write_report
from rgopd.common.errors import ConfigError


def step(number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"event": "step", "step": number, "loss": 1.0 / (number + 1), "kept_fraction": 0.9}
    row["response_length_mean"] = 20.0 + number
    for sign in ("positive", "zero", "negative"):
        row |= {f"tokens_{sign}": 10.0, f"kept_fraction_{sign}": 0.5, f"teacher_above_{sign}": 0.25}
    return row


def evaluation(number: int, accuracy: float) -> dict[str, Any]:
    domains = {"A <b>": {"accuracy": accuracy, "problems": 10}}
    return {"event": "eval", "step": number, "accuracy": accuracy, "problems": 10, "by_domain": domains}


def run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = {"objective": {"name": "rg_opd"}, "student": "/models/student", "seed": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_the_report_holds_curves_and_the_table(tmp_path: Path) -> None:
    folder = run(tmp_path / "r", [evaluation(0, 0.5), *map(step, range(8)), evaluation(8, 0.75)])
    text = write_report(folder).read_text()
    assert "data:image/png;base64," in text
    assert "<td>50.0%</td><td>75.0%</td><td>+25.0</td>" in text
    assert "A &lt;b&gt;" in text, "names are escaped"
    assert "<b>rg_opd</b>" in text
    assert (folder / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert summary_table(folder).row_count == 2


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path / "r", [step(0)])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert "1 steps" in write_report(folder).read_text()


def test_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the folder of a run"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="has no step yet"):
        write_report(run(tmp_path / "empty", [evaluation(0, 0.5)]))


def test_one_evaluation_makes_no_comparison() -> None:
    assert accuracy_rows([evaluation(0, 0.5)]) == []


def test_running_mean_looks_back_only() -> None:
    assert running_mean([1, 2, 3, 4], width=2) == [1, 1.5, 2.5, 3.5]
