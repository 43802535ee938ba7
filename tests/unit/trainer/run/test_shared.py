"""Folders that are not shared between the machines of a run's ranks."""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from rgopd.common.file_store import FileStore
from rgopd.common.stores import StoredBlobs
from rgopd.common.streams import Streams
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.run.shared import difference


def seen(redis: Redis, run_id: str, blobs: Path) -> Streams:
    """The run's streams on a machine that has its blobs there."""
    blobs.mkdir(exist_ok=True)
    return Streams(redis, run_id, blobs=StoredBlobs(FileStore(blobs), run_id))


def test_another_ranks_folders_are_compared_with_the_marks_of_rank_0(redis: Redis, run_id: str, tmp_path: Path) -> None:
    ours = seen(redis, run_id, tmp_path / "blobs")
    claim = Claim(tmp_path / "run", ours, {})
    claim.take()
    marks = claim.marks()
    assert difference(tmp_path / "run", ours, marks, 3, 0.0) == ""
    assert difference(tmp_path / "run", Streams(redis, run_id), marks, 3, 0.0) == "", "blobs in Redis"
    elsewhere = difference(tmp_path / "other", ours, marks, 3, 0.0)
    assert "other is another folder for rank 3 than for rank 0" in elsewhere
    local = difference(tmp_path / "run", seen(redis, run_id, tmp_path / "local"), marks, 3, 0.0)
    assert "local is another place for rank 3 than for rank 0: mount one file system" in local
    claim.release()
