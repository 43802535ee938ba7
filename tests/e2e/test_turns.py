"""The shipped example of environments, with real processes: a calculator as a tool, functions repaired on feedback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rgopd.common.run_files import read_step
from rgopd.trainer.records.metrics import read_json_lines
from tests.e2e.conftest import Rgopd


@pytest.mark.timeout(300)
def test_the_example_of_environments_runs(
    rgopd: Rgopd, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    settings = {"train.output_dir": str(tmp_path / "run"), "train.steps": "2", "up.samplers": "1"}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    process = rgopd("up", "--config", "examples/environments/run.yaml", *overrides)
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, out + err
    steps = [row for row in read_json_lines(tmp_path / "run" / "metrics.jsonl") if row["event"] == "step"]
    assert [row["stage_failures"] for row in steps] == [{}, {}]
    for row in steps:
        assert row["verdicts"]["error"] == 0
        assert row["turns_mean"] > 1.5, "the shipped student calls the tool, and hears of its programs"
        assert row["observation_tokens_mean"] > 0
        assert row["behaviour_drift"] < 1e-5, "sampler and trainer agree on the student's own tokens"
        assert set(row["reward_by_domain"]) <= {"calculator", "repair"}
    talks = [r for _, r in read_step(tmp_path / "run", 0).rollouts if r.own is not None and r.turns > 1]
    assert talks
    assert sum(row["verdicts"]["passed"] for row in steps) > 10, "some of it earns a reward"
    for rollout in talks:
        assert rollout.own is not None
        assert rollout.tokens is not None
        assert len(rollout.tokens.keep) == len(rollout.own) == len(rollout.response_ids)
        assert rollout.own_tokens == sum(value == value for value in rollout.tokens.student)
        assert not any(keep for keep, own in zip(rollout.tokens.keep, rollout.own, strict=True) if not own)
    shown = subprocess.run(
        [sys.executable, "-m", "rgopd.cli.main", "rollouts", str(tmp_path / "run"), "--step", "0", "--limit", "0"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    assert " in 2 turns" in shown
    assert "of its environment, not trained on" in shown
    assert "⟦" in shown
