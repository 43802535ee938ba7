"""The trainer's probe goes by progress, not by the clock of a step."""

from __future__ import annotations

import json
import runpy
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "docker" / "healthcheck.py"


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RGOPD_OUTPUT_DIR", str(tmp_path))

    def check(alive_s: float = 1e6, **status: Any) -> str | None:
        (tmp_path / "status.json").write_text(json.dumps(status))
        trainer = runpy.run_path(str(SCRIPT))["trainer"]
        monkeypatch.setitem(trainer.__globals__, "age_s", lambda: alive_s)  # not this machine's, which may be young
        answer = trainer()
        return None if answer is None else str(answer)

    return check


@pytest.mark.parametrize(
    ("phase", "quiet_s", "allowed_s", "problem"),
    [
        ("collecting", 20_000, 28_800 + 300, None),  # 8,192 tokens: the run itself waits this long
        ("collecting", 29_200, 28_800 + 300, "collecting: no progress"),
        ("evaluating", 7_000, 3_900, "evaluating: no progress"),
        ("training", 60, 1_200, None),
    ],
)
def test_how_long_it_may_be_quiet_is_its_own_word(
    probe: Any, phase: str, quiet_s: float, allowed_s: float, problem: str | None
) -> None:
    now = time.time()
    found = probe(time=now, moved=now - quiet_s, allowed_s=allowed_s, phase=phase)
    assert found is None if problem is None else problem in found


def test_a_status_that_grows_old_is_a_process_that_hangs(probe: Any) -> None:
    now = time.time()
    assert "not written for" in probe(time=now - 400, moved=now - 400, allowed_s=1e6, phase="training")


def test_a_process_is_as_old_as_it_is_whatever_the_kernel_has_forgotten() -> None:
    age_s = runpy.run_path(str(SCRIPT))["age_s"]
    with subprocess.Popen(["sleep", "60"]) as child:
        time.sleep(1.2)
        assert 1.0 <= age_s(child.pid) < age_s(1)
        child.kill()


def test_a_folder_without_a_status_is_a_start_for_an_hour(probe: Any) -> None:
    assert probe(alive_s=3000) is None
    assert "since the start" in probe(alive_s=4000)
    old = time.time() - 3500
    assert probe(alive_s=3000, time=old, moved=old, allowed_s=1.0, phase="training") is None, "an earlier life's"
