"""What `rgopd up` does when its children die. The children are small programs; the supervisor is the real one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from rgopd.cli import processes
from rgopd.cli.processes import Child, ProcessFailed, Restarts
from rgopd.cli.up import Machine, _rebase, run_resume
from rgopd.common.children import PAUSED, PERMANENT
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError

FOREVER = "import time; time.sleep(60)"


def machine(folder: Path, service: str, trainer: str, max_restarts: int = 2) -> Machine:
    made = Machine({"up": {"max_restarts": max_restarts}}, folder)

    def child(name: str, code: str) -> Child:
        return Child(name, [sys.executable, "-S", "-c", code], folder / "logs", stop_timeout_s=2)

    made.services = [child("teacher", service)]
    made.trainer = child("trainer", trainer)
    for each in (*made.services, made.trainer):
        each.start()
    return made


def counting(path: Path, then: str) -> str:
    """A program that notes that it was started."""
    return f"open({str(path)!r}, 'a').write('x'); {then}"


def starts(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


def test_a_service_that_dies_is_started_again(tmp_path: Path) -> None:
    note = tmp_path / "starts"
    done = tmp_path / "done"
    trainer = f"import os, time\nwhile not os.path.exists({str(done)!r}): time.sleep(0.02)"
    once = f"import os, sys, time\nif os.path.getsize({str(note)!r}) == 1: sys.exit(9)\ntime.sleep(60)"
    running = machine(tmp_path, f"open({str(note)!r}, 'a').write('x')\n{once}", trainer)

    def tick() -> None:
        if starts(note) == 2:
            done.touch()

    try:
        assert running.watch(tick) == 0
    finally:
        running.stop()


def test_it_gives_up_with_the_end_of_the_log(tmp_path: Path) -> None:
    note = tmp_path / "starts"
    running = machine(tmp_path, counting(note, "import sys; sys.exit('no such model: /models/teacher')"), FOREVER)
    try:
        with pytest.raises(ProcessFailed, match=r"teacher exited with 1, 2 restarts spent:\n(.*\n)*no such model"):
            running.watch(lambda: None)
    finally:
        running.stop()
    assert starts(note) == 3


def test_a_trainer_that_cannot_go_on_is_not_started_again(tmp_path: Path) -> None:
    note = tmp_path / "starts"
    trainer = counting(note, f"import sys; sys.stderr.write('the verifier is broken'); sys.exit({PERMANENT})")
    running = machine(tmp_path, FOREVER, trainer)
    try:
        with pytest.raises(ProcessFailed, match="cannot go on:\nthe verifier is broken"):
            running.watch(lambda: None)
    finally:
        running.stop()
    assert starts(note) == 1


def test_a_paused_trainer_ends_the_watch(tmp_path: Path) -> None:
    running = machine(tmp_path, FOREVER, f"import sys; sys.exit({PAUSED})")
    try:
        assert running.watch(lambda: None) == PAUSED
    finally:
        running.stop()


def test_redis_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    done = tmp_path / "done"
    trainer = f"import os, time\nwhile not os.path.exists({str(done)!r}): time.sleep(0.02)"
    running = machine(tmp_path, FOREVER, trainer)
    running.redis = EmbeddedValkey(tmp_path / "redis").start()
    client = Redis.from_url(running.redis.url)
    client.set("kept", "yes")
    first = running.redis.process
    assert first is not None
    first.kill()

    def tick() -> None:
        assert running.redis is not None
        if running.redis.process is not first and client.get("kept") == b"yes":
            done.touch()

    try:
        assert running.watch(tick) == 0
    finally:
        client.close()
        running.stop()


def test_the_pauses_grow_and_a_long_life_counts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts = Restarts(limit=3)
    pauses = []
    for _ in range(3):
        assert restarts.died(lived_s=1)
        assert restarts.due is not None
        pauses.append(round(restarts.due - time.monotonic()))
        monkeypatch.setattr(restarts, "due", 0.0)
        assert restarts.ready()
        assert not restarts.ready()
    assert pauses == [0, 1, 2]
    assert not restarts.died(lived_s=1)
    assert restarts.died(lived_s=processes.STABLE_S + 1)
    assert restarts.deaths == 1


def test_a_moved_run_folder_is_found_where_it_is() -> None:
    before = {"train": {"output_dir": "/a/run", "dataset": {"path": "/a/run/data/t.jsonl"}, "student": "/a/runner"}}
    assert _rebase(before, "/a/run", "/b") == {
        "train": {"output_dir": "/b", "dataset": {"path": "/b/data/t.jsonl"}, "student": "/a/runner"}
    }


def test_resuming_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run\.yaml"):
        run_resume(tmp_path, [])


def test_why_a_command_ended_is_its_own_line_whatever_others_say_after_it(tmp_path: Path) -> None:
    child = Child("teacher", ["true"], tmp_path)
    child.err.write_text(
        "rgopd: port 8001 on 0.0.0.0 is in use; stop what listens there\nsrun: Terminating StepId=6.0\n"
    )
    assert child.tail().startswith("port 8001 on 0.0.0.0 is in use; stop what listens there\n")
