"""Ctrl-C and SIGTERM at every stage of `rgopd up`: the exit code, the last line, no process left, and it goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.test_up import start, steps_done, write_config
from tests.e2e.conftest import processes_naming

Stage = Callable[[Path, str], bool]
STAGES: dict[str, Stage] = {
    "checking": lambda run, said: True,
    "checked": lambda run, said: "Run folder" in said,
    "redis": lambda run, said: "embedded Valkey" in said,
    "loading": lambda run, said: (run / "logs" / "trainer.log").exists(),
    "one ready": lambda run, said: "verifier " in said,
    "all ready": lambda run, said: "sampler-0  http" in said,
    "a step": lambda run, said: steps_done(run) > 0,
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("stage", STAGES)
def test_stopped(tmp_path: Path, stage: str, number: signal.Signals) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    up = start(["up", "--config", str(write_config(run))], log)
    deadline = time.monotonic() + 120
    while not STAGES[stage](run, log.read_text()):
        assert up.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while stage == "checking" and "libtorch_cpu" not in Path(f"/proc/{up.pid}/maps").read_text():
        time.sleep(0.01)  # the command has begun
    up.send_signal(number)
    time.sleep(0.2)
    up.send_signal(number)  # impatience changes nothing
    assert up.wait(150) == 128 + number, log.read_text()
    said = log.read_text()
    assert "Traceback" not in said
    name = {signal.SIGINT: ("Ctrl-C", "SIGINT"), signal.SIGTERM: ("SIGTERM",)}[number]
    assert any(f"topped by {each}" in said.splitlines()[-1] for each in name), said
    assert processes_naming(str(run)) == []
    if (run / "run.yaml").exists():
        assert f"`rgopd resume {run}` goes on from there" in said


@pytest.mark.timeout(300)
def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    first = start(["up", "--config", str(write_config(run))], log)
    try:
        deadline = time.monotonic() + 120
        while "Run folder" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        other = start(["up", "--config", str(run / "given.yaml")], tmp_path / "other")
        assert other.wait(120) == 2
        assert f"a run works in {run} already (process {first.pid}): stop that one" in (tmp_path / "other").read_text()
        assert first.poll() is None, "the first is as it was"
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(150) == 130, log.read_text()
