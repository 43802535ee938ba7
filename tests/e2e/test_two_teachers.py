"""examples/two_teachers.yaml: `up` starts both, and each scores the domains that are its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.trainer.records.metrics import read_json_lines
from tests.e2e.conftest import Rgopd


def test_each_domains_prompts_go_to_its_teacher(
    rgopd: Rgopd, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)  # the example names its model from here
    small = ("train.steps=1", "train.sampling.prompts_per_step=8", "train.sampling.n=2", "train.eval.dataset=null")
    overrides = [part for setting in (*small, "up.samplers=1") for part in ("--set", setting)]
    files = [
        part for name in ("services/configs/demo.yaml", "examples/two_teachers.yaml") for part in ("--config", name)
    ]
    run = rgopd("demo", *files, "--no-watch", "--output-dir", str(tmp_path / "run"), *overrides)
    out, err = run.communicate(timeout=800)
    assert run.returncode == 0, out + err
    [step] = [row for row in read_json_lines(tmp_path / "run" / "metrics.jsonl") if row["event"] == "step"]
    assert {domain[0] for domain in step["reward_by_domain"]} == {"A", "B"}
    assert step["unscored_rollouts"] == 0
    assert step["stage_failures"] == {}
    # A teacher refuses the jobs of another, so both have scored; the second one's weights are the student's own.
    assert "student" in (tmp_path / "run" / "logs" / "teacher-keeper.log").read_text()
