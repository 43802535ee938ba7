"""What `make smoke-qwen` measures memory with: real processes, and tables as the system prints them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.smoke.memory import Peak, Watcher, descendants, fields, parse_gpu, role_of
from tests.smoke.smoke_qwen import DISK, MEMORY, check_room

HOLD = "import sys; held = bytearray(64 << 20); print(len(held), flush=True); sys.stdin.read()"


def test_a_process_is_seen_with_its_memory_and_may_vanish() -> None:
    """The words behind the program are what it is told apart by."""
    command = [sys.executable, "-S", "-c", HOLD, "-m", "rgopd.cli.main", "teacher"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    watcher = Watcher()
    watcher.look()
    child.stdin.close()
    child.wait()
    child.stdout.close()
    watcher.look()
    peak = watcher.largest()["teacher"]
    assert 64 << 20 <= peak.own < 96 << 20
    assert peak.resident >= peak.own
    assert watcher.together >= 64 << 20


def test_processes_are_known_by_their_command() -> None:
    assert role_of(["python", "-m", "rgopd.cli.main", "sampler", "--config", "x"]) == "sampler"
    assert role_of(["python", "-m", "rgopd.cli.torchrun", "-m", "rgopd.cli.main", "train"]) == "", "the launcher"
    assert role_of(["python", "-m", "rgopd.cli.main"]) == ""
    assert role_of(["valkey-server", "*:0"]) == ""
    assert 1 not in descendants(1)


def test_the_largest_of_a_role_counts() -> None:
    watcher = Watcher({("train", 1): Peak(5, 6), ("train", 2): Peak(7, 8), ("up", 3): Peak(1, 1)})
    assert watcher.largest() == {"train": Peak(7, 8), "up": Peak(1, 1)}


def test_tables_of_the_system_are_read() -> None:
    assert fields("Name:\tx\nVmHWM:\t    12 kB\nRssAnon:\t  3 kB\nThreads:\t4\n") == {"VmHWM": 12288, "RssAnon": 3072}
    assert parse_gpu("12, 100\n12, 28\n99, [N/A]\n") == {12: 128 << 20}
    assert parse_gpu("") == {}


@pytest.mark.parametrize(
    ("disk", "memory", "told"), [(DISK - 1, MEMORY, "free disk"), (DISK, MEMORY - 1, "free memory")]
)
def test_too_small_a_machine_is_refused_before_the_download(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, disk: int, memory: int, told: str
) -> None:
    monkeypatch.setattr("tests.smoke.smoke_qwen.FOLDER", tmp_path_factory.mktemp("empty"))
    check_room(DISK, MEMORY)
    with pytest.raises(SystemExit, match=told):
        check_room(disk, memory)
