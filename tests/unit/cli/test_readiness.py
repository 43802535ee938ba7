"""Services are waited for as long as they get on; a stuck one ends the wait with what it was doing. Real processes."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from rgopd.cli.processes import Child, Leaving, ProcessFailed, leaving_of
from rgopd.cli.readiness import Readiness, TrainerStart, repos_of
from rgopd.common import signs
from rgopd.common.children import PERMANENT
from rgopd.common.hub import Repo
from tests.waiting import eventually

READY = "print('rgopd x ready at http://h:1', flush=True); import time; time.sleep(30)"
REPO = Repo("org/model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("rgopd.common.loading.size_of", lambda repo: 0)
    blobs = REPO.folder / "blobs"
    blobs.mkdir(parents=True)
    return blobs


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[Child] = []
        self.told: list[str] = []

    def start(self, code: str, name: str = "teacher", stop_timeout_s: float = 1.0) -> Child:
        child = Child(name, [sys.executable, "-S", "-c", code], self.folder / "logs", stop_timeout_s=stop_timeout_s)
        child.start()
        self.children.append(child)
        return child

    def wait(self, limit_s: float, trainer: Child | None = None) -> float:
        started = time.monotonic()
        services = [child for child in self.children if child is not trainer]
        told = Readiness(limit_s, lambda name, text: self.told.append(f"{name}: {text}"))
        told.wait(services, lambda _: [REPO], lambda child, url: None, trainer=trainer)
        return time.monotonic() - started


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path)
    yield made
    for child in made.children:
        child.stop()


def test_a_download_is_waited_for_however_long_it_takes(
    bench: Bench, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgopd.common.loading.size_of", lambda repo: 2_000_000_000)
    (cache / "done").write_bytes(b"")
    with (cache / "done").open("ab") as file:
        file.truncate(1_200_000_000)
    bench.start(
        f"import time\nf = open({str(cache / 'weights.incomplete')!r}, 'ab')\n"
        f"for _ in range(14): f.write(b'x' * 50000); f.flush(); time.sleep(0.2)\n{READY}"
    )
    assert bench.wait(2.0) > 2.5
    assert any("teacher: downloading 1.2 of 2.0 GB" in text for text in bench.told), bench.told


def test_computing_is_believed_ten_times_as_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spin = "import time\nend = time.time() + {}\nwhile time.time() < end: pass\n"
    bench.start(spin.format(2.6) + READY)
    assert bench.wait(1.5) > 2.3
    monkeypatch.setattr(signs, "BELIEVED", 2)
    bench.start(spin.format(60), "sampler-0")
    with pytest.raises(ProcessFailed, match=r"sampler-0 is stuck while .*it computes, but nothing was fetched"):
        bench.wait(1.0)


def test_reading_and_new_lines_of_the_log_are_signs(bench: Bench) -> None:
    bench.start(
        "import sys, time\n"
        "for word in ('shards', 'compile'):\n"
        "    time.sleep(0.6); print(word, file=sys.stderr, flush=True)\n"
        "for _ in range(2): time.sleep(0.6); open('/dev/zero', 'rb').read(1 << 20)\n" + READY
    )
    assert bench.wait(1.8) > 2


def test_a_stuck_service_is_named_with_what_it_did(bench: Bench) -> None:
    bench.start(
        "import sys, time\nprint('loading shard', file=sys.stderr, flush=True)\n"
        "while True: time.sleep(0.2); print('no block found in', time.time(), file=sys.stderr, flush=True)"
    )
    started = time.monotonic()
    with pytest.raises(ProcessFailed) as failed:
        bench.wait(1.5)
    assert time.monotonic() - started < 60, "the same complaint again and again is no progress"
    assert "teacher is stuck while loading" in str(failed.value)
    assert "up.ready_timeout_s=1.5" in str(failed.value)
    assert "no block found in" in str(failed.value)


def test_all_are_watched_at_once(bench: Bench) -> None:
    bench.start("import time\nwhile True: time.sleep(0.1); open('/dev/zero', 'rb').read(1 << 20)")
    bench.start("import sys, time; time.sleep(0.5); sys.exit('no sandbox')", "verifier")
    with pytest.raises(ProcessFailed, match=r"verifier exited with 1 before it was ready:\n.*no sandbox"):
        bench.wait(200)
    loads = bench.children[0]
    bench.children = [loads]
    trainer = bench.start(f"import sys; sys.exit({PERMANENT})", "trainer")
    with pytest.raises(ProcessFailed, match="the trainer cannot go on"):
        bench.wait(60, trainer)


def test_the_trainer_too_while_it_loads(bench: Bench) -> None:
    trainer = bench.start("import time; time.sleep(60)", "trainer")
    watch = TrainerStart(trainer, bench.folder, [], 0.8)
    started = time.monotonic()

    def look_on() -> None:
        while time.monotonic() - started < 60:
            watch.look()
            time.sleep(0.1)

    with pytest.raises(ProcessFailed, match="the trainer is stuck while loading"):
        look_on()
    status = f'{{"time": {time.time()}, "started": {time.time() + 1}, "phase": "collecting"}}'
    watch = TrainerStart(trainer, bench.folder, [], 0.3)
    (bench.folder / "status.json").write_text(status)
    for _ in range(10):
        watch.look()
        time.sleep(0.1)


def test_a_trainer_that_saves_is_not_killed(bench: Bench) -> None:
    saves = (
        "import os, signal, sys, time\n"
        f"os.makedirs({str(bench.folder / 'checkpoints' / 'x.partial')!r}, exist_ok=True)\n"
        "def save(*_):\n"
        f"    with open({str(bench.folder / 'checkpoints' / 'x.partial' / 'shard')!r}, 'ab') as file:\n"
        "        for _ in range(8): file.write(b'x' * 1000); file.flush(); time.sleep(0.2)\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\nwhile True: time.sleep(0.1)"
    )
    child = bench.start(saves, "trainer")
    child.leaving = lambda: leaving_of(bench.folder)
    eventually(lambda: "up" in child.out.read_text())
    child.stop()
    assert child.poll() == 75
    deaf = bench.start("import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(60)")
    eventually(deaf.out.read_text)
    deaf.leaving = lambda: Leaving(7, 0.5)
    started = time.monotonic()
    deaf.stop()
    assert deaf.poll() == -signal.SIGKILL
    assert 1.4 < time.monotonic() - started < 30, "its patience and its longest step"


def test_the_longest_step_is_read(tmp_path: Path) -> None:
    (tmp_path / "timings.jsonl").write_text('{"step": 0, "seconds": 40.5}\n{"step": 1, "seconds": 3.0}\n{"st')
    assert leaving_of(tmp_path) == Leaving(0, 40.5)


def test_whose_downloads_are_whose(tmp_path: Path) -> None:
    sections = {
        "teacher": {"model": "org/big", "revision": "abc"},
        "sampler": {"student": "org/small"},
        "train": {"student": str(tmp_path)},
    }
    assert repos_of(sections, "teacher") == [Repo("org/big", "model", "abc")]
    assert repos_of(sections, "sampler") == [Repo("org/small")]
    assert repos_of(sections, "train") == []
    assert repos_of({"teacher": {"model": "org/big", "engine": "vllm-server"}}, "teacher") == []
