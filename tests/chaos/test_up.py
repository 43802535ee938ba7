"""`rgopd up` as a user runs it: kill what it started, pause it, resume it, bring its folder elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.chaos.cast import result, sections, write_data

STEPS = 6


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as sink:
        argv = [sys.executable, "-m", "rgopd.cli.main", *arguments]
        return subprocess.Popen(argv, stdout=sink, stderr=sink, env=environment)


def write_config(folder: Path) -> Path:
    write_data(folder)
    made = sections(folder, "", steps=STEPS, ranks=2, samplers=1)
    made["up"]["max_restarts"] = 10
    config = folder / "given.yaml"
    config.write_text(yaml.safe_dump(made))
    return config


def children(folder: Path, role: str) -> list[int]:
    """Processes of a role that serve the run in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if role.encode() in command and str(folder / "up.yaml").encode() in command:
                found.append(int(entry.name))
    return found


def steps_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def wait_steps(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    while steps_done(folder) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(900)
def test_killed_paused_moved_and_resumed_it_is_the_same_run(tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    undisturbed = start(["up", "--config", str(write_config(clean))], tmp_path / "clean.log")
    assert undisturbed.wait(300) == 0, (tmp_path / "clean.log").read_text()

    first, log = tmp_path / "first", tmp_path / "first.log"
    up = start(["up", "--config", str(write_config(first))], log)
    wait_steps(up, first, 1)
    for role in ("sampler", "teacher", "train"):
        for pid in children(first, role)[:1]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(1)
    wait_steps(up, first, 3)
    up.send_signal(signal.SIGTERM)
    assert up.wait(150) == 143, log.read_text()
    assert not children(first, "train")
    assert steps_done(first) < STEPS, "paused too late to show anything"

    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    first.rename(moved)
    resumed = start(["resume", str(moved)], log)
    assert resumed.wait(300) == 0, log.read_text()
    assert result(moved) == result(clean)
