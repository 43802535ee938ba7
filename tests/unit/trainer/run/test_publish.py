"""Policy versions: hashed once each, announced as often as anybody asks, written beside training where nobody waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from rgopd.common.policies import PolicyStore, digest, verified
from rgopd.common.streams import Streams
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run import publish
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.run.publish import Publisher
from tests.unit.trainer.lone import load, lone_rank


def publisher_of(folder: Path, student: Path, streams: Streams, staleness: int) -> Publisher:
    values: dict[str, Any] = {"student": str(student), "dataset": {"path": "x.jsonl"}, "max_staleness": staleness}
    config = TrainConfig(output_dir=folder / "run", run_id=streams.run_id, **values)
    return Publisher(config, PolicyStore(streams), Checkpoints(folder / "run" / "checkpoints", 1))


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_version_is_hashed_once(
    staleness: int, student_folder: Path, tmp_path: Path, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    counted = lambda folder: read.append(folder.name) or digest(folder)  # noqa: E731
    for module in ("rgopd.common.policies", "rgopd.trainer.run.publish", "rgopd.trainer.student.weights"):
        monkeypatch.setattr(f"{module}.digest", counted)
    with lone_rank(tmp_path):
        student = load(student_folder)
        publisher = publisher_of(tmp_path, student_folder, streams, staleness)
        for version in range(4):
            publisher.publish(student, version)
            with torch.no_grad():
                next(student.parameters()).add_(0.01)  # training goes on: what is written must not change with it
        publisher.settle()
        for _ in range(3):
            publisher.announce()
        assert read == []
        again = publisher_of(tmp_path, student_folder, streams, staleness)  # a life that resumes
        again.version = 3
        for _ in range(3):
            again.announce()
        assert read == [f"v{v:08d}" for v in range(3 - staleness, 4)]
    monkeypatch.undo()
    store = PolicyStore(streams)
    found = {v: store.wait(v, 0.0).sha256 for v in sorted(store.announced())}
    assert {3 - staleness, 3} <= found.keys()
    assert len(set(found.values())) == len(found)
    for version in found:
        assert verified(store.wait(version, 0.0), 0.0) == publisher.folder_of(version)


def test_the_next_step_does_not_wait_for_the_disk(
    student_folder: Path, tmp_path: Path, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = threading.Event(), publish.stream_weights
    monkeypatch.setattr(publish, "stream_weights", lambda *args: gate.wait(30) and real(*args))
    with lone_rank(tmp_path):
        publisher = publisher_of(tmp_path, student_folder, streams, staleness=1)
        publisher.publish(load(student_folder), 0)
        assert PolicyStore(streams).announced() == set()
        gate.set()
        publisher.settle()
    assert PolicyStore(streams).announced() == {0}


def test_a_disk_that_is_full_ends_the_next_publication(
    student_folder: Path, tmp_path: Path, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish, "stream_weights", full)
    with lone_rank(tmp_path):
        student = load(student_folder)
        publisher = publisher_of(tmp_path, student_folder, streams, staleness=1)
        publisher.publish(student, 0)
        with pytest.raises(OSError, match="No space"):
            publisher.publish(student, 1)
