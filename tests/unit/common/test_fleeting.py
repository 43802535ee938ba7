"""Everything that looks at a run from outside, while somebody writes, replaces and deletes what it looks at."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rgopd.cli.disk import DiskNeed, shortages
from rgopd.cli.processes import Child, leaving_of
from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.file_store import FileStore
from rgopd.common.run_files import RunFolder, Vocabulary, kept_steps, read_status, read_step
from rgopd.common.run_files.events import EventLog
from rgopd.common.run_files.kept_files import thin
from rgopd.common.signs import LogNews
from rgopd.evaluate.cells import read_scores
from rgopd.verifier.sandbox.watch import _too_full
from rgopd.watch.faults import links_of, processes_of
from rgopd.watch.now import now_of
from rgopd.watch.rollouts import Filter, load_step, rollouts_of, vocabulary
from rgopd.watch.run import Run
from rgopd.watch.runs import Runs

FILES = {
    "status.json": '{"time": 1.0, "phase": "collecting"}',
    "metrics.jsonl": '{"event": "step", "step": 0, "loss": 1.0}\n',
    "timings.jsonl": '{"event": "step", "step": 0, "seconds": 1.0}\n',
    "events.jsonl": '{"kind": "started"}\n',
    "config.yaml": "steps: 3\n",
    "run.json": '{"run_id": "r", "instance": "i"}',
    "logs/teacher.log": "a line\n",
    "logs/teacher.out": "teacher ready at http://127.0.0.1:1\n",
    "checkpoints/step-00000001/a": "x" * 100,
    "rollouts/step-000001.jsonl.gz": "",
    "cells/a/b/seed-0/cell.json": "",
}


@pytest.fixture
def restless(tmp_path: Path) -> Iterator[Path]:
    """A run's folder whose files and folders come and go as fast as two threads can make them."""
    folder, over = tmp_path / "runs" / "restless", threading.Event()

    def churn() -> None:
        while not over.is_set():
            for name, text in FILES.items():
                try:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_text(text)
                except OSError:  # the other thread has just deleted the folder
                    continue
            shutil.rmtree(folder, ignore_errors=True)

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield folder
    over.set()
    for thread in threads:
        thread.join()


def look(again: Callable[[], object], seconds: float = 0.15) -> None:
    until, looks = time.monotonic() + seconds, 0
    while time.monotonic() < until or looks < 20:
        again()
        looks += 1


LOOKS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "kept steps": lambda at: lambda: kept_steps(at),
    "kept steps thinned": lambda at: lambda: thin(at, 1, 10),
    "status": lambda at: lambda: read_status(at),
    "vocabulary": lambda at: lambda: (Vocabulary.read(at), vocabulary(at)),
    "size of what a run leaves": lambda at: lambda: leaving_of(at),
    "news in logs": lambda at: LogNews([at / "logs/teacher.log", at / "logs/teacher.out"]),
    "a child's address": lambda at: Child("teacher", [], at / "logs").url,
    "a child's last words": lambda at: Child("teacher", [], at / "logs").tail,
    "disks": lambda at: lambda: shortages([DiskNeed(at / "checkpoints", "a checkpoint", 1)]),
    "runs of the page": lambda at: Runs([at.parent]).folders,
    "rollouts of the page": lambda at: lambda: rollouts_of(Run(at, "r"), None, Filter()),
    "processes of the page": lambda at: lambda: processes_of(at),
    "the page's now": lambda at: lambda: _now(Run(at, "r")),
    "cells of an evaluation": lambda at: lambda: _but_json(lambda: read_scores(at)),
    "blobs": lambda at: lambda: list(FileStore(at.parent).entries("restless", aged=True)),
    "a sandbox's folder": lambda at: lambda: _too_full(str(at.parent), 1 << 30),
}


def _now(run: Run) -> None:
    run.refresh()
    now_of(run)
    links_of(run, alive=True)


def _but_json(again: Callable[[], object]) -> None:
    """The churning writes in place, which an evaluation never does: half a file is not this test's matter."""
    try:
        again()
    except (ValueError, KeyError):
        pass


@pytest.mark.parametrize("name", LOOKS)
def test_what_goes_while_it_is_looked_at_is_no_error(name: str, restless: Path) -> None:
    restless.parent.mkdir(exist_ok=True)
    look(LOOKS[name](restless))


def test_a_step_that_goes_between_the_list_and_the_look_is_said_to_be_gone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 1\n")
    for again in (lambda: read_step(tmp_path, 1), lambda: load_step(tmp_path, 1), lambda: RunFolder(tmp_path).step(1)):
        with pytest.raises(ConfigError, match="holds no rollouts"):
            again()


def test_two_processes_that_shorten_the_events_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgopd.common.run_files.events.MAX_BYTES", 1000)
    EventLog(tmp_path, "trainer")
    for _ in range(30):
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write('{"kind": "warning", "text": "0123456789"}\n' * 60)
        threads = [threading.Thread(target=EventLog, args=(tmp_path, "up")) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "events.jsonl").stat().st_size < 2600


def test_a_folder_that_this_user_may_not_enter_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stat that refuses: the tests may run as root, whom no mode does."""
    stat = os.stat

    def refusing(path: str | Path, *more: object, **options: object) -> os.stat_result:
        if "private/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *more, **options)  # type: ignore[arg-type]

    (tmp_path / "private").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metrics.jsonl").touch()
    monkeypatch.setattr("os.stat", refusing)
    assert list(Runs([tmp_path]).folders()) == ["mine"]


def test_files_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntwo\xff\n")
    assert fleeting.size(path) == 9
    assert fleeting.text_from(path, 4) == "two�\n"
    assert fleeting.text_from(path, -5) == "two�\n"
    assert fleeting.text_from(path, -99) == fleeting.text(path) == "one\ntwo�\n"
    assert fleeting.listed(tmp_path, "*.log") == [path]
    assert fleeting.tree_size(tmp_path) == 9
    assert fleeting.standing(tmp_path / "b" / "c") == tmp_path.resolve()
    assert fleeting.disk(tmp_path / "b" / "c")[1] > 0
    assert (fleeting.size(path / "b"), fleeting.changed_ns(path / "b"), fleeting.listed(path)) == (None, 0, [])
    with pytest.raises(IsADirectoryError):
        fleeting.text(tmp_path)
