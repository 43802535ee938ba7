"""Checkpoints: bit-identical resume, torn ones passed over, last N kept, nothing lost to a full or read-only disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rgopd.common.embedded import free_port
from rgopd.common.errors import ConfigError
from rgopd.trainer.config import CheckpointConfig
from rgopd.trainer.run.checkpoint import MARKER, STARTED_OVER, Checkpoints, disk_trouble, torn
from rgopd.trainer.run.hashed_files import HashedFile


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        del os.environ[name]


class Training:
    """A model with an optimiser that has moments, and steps that depend on the step number alone."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
        self.optimizer = AdamW(self.student.parameters(), lr=1e-3, foreach=False)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (1 + step))

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        return self.student, self.optimizer, self.scheduler

    def step(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for parameter in self.student.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.step()
        self.scheduler.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in self.student.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_resumed_run_is_the_same_run_to_the_bit(tmp_path: Path, asynchronous: bool) -> None:
    first = Training()
    checkpoints = Checkpoints(tmp_path, 2, asynchronous=asynchronous)
    for number in range(6):
        if number == 3:
            checkpoints.save(3, *first.parts, {"run_id": "r"})
        first.step(number)  # changes the very tensors that an asynchronous save is still writing
    checkpoints.settle(wait=True)
    second = Training()
    state = Checkpoints(tmp_path, 2).load_latest(*second.parts)
    assert state is not None
    assert (state["step"], state["run_id"]) == (3, "r")
    for number in range(3, 6):
        second.step(number)
    assert same(first.weights(), second.weights())
    assert first.scheduler.get_last_lr() == second.scheduler.get_last_lr()


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    training = Training()
    before = training.weights()
    assert Checkpoints(tmp_path / "none", 2).load_latest(*training.parts) is None
    assert same(before, training.weights())


def test_the_last_n_are_kept_and_no_debris(tmp_path: Path) -> None:
    training = Training()
    checkpoints = Checkpoints(tmp_path, 2)
    (tmp_path / "step-00000001.partial").mkdir(parents=True)  # a crash while writing
    for step in (1, 2, 3, 4):
        checkpoints.save(step, *training.parts, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def damage(path: Path, how: str) -> None:
    shard = next(path.glob("*.distcp"))
    if how == "a flipped bit":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif how == "a short file":
        os.truncate(shard, shard.stat().st_size - 1)
    elif how == "a missing file":
        shard.unlink()
    elif how == "no marker":
        (path / MARKER).unlink()
    elif how == "half a marker":
        os.truncate(path / MARKER, 20)


@pytest.mark.parametrize("how", ["a flipped bit", "a short file", "a missing file", "no marker", "half a marker"])
def test_a_torn_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training()
    checkpoints = Checkpoints(tmp_path, 3)
    for step in (1, 2):
        checkpoints.save(step, *training.parts, {})
        training.step(step)
    assert torn(tmp_path / "step-00000002") is None
    damage(tmp_path / "step-00000002", how)
    assert torn(tmp_path / "step-00000002") is not None
    with caplog.at_level(logging.WARNING):
        state = checkpoints.load_latest(*Training().parts)
    assert state is not None
    assert state["step"] == 1
    assert how == "no marker" or "step-00000002 is torn" in caplog.text
    checkpoints.save(2, *training.parts, {})  # the resumed run comes to that step again
    assert torn(tmp_path / "step-00000002") is None


def test_only_torn_checkpoints_stop_the_run(tmp_path: Path) -> None:
    training = Training()
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(1, *training.parts, {})
    damage(tmp_path / "step-00000001", "a flipped bit")
    with pytest.raises(ConfigError, match="all 1 checkpoints .* are torn"):
        checkpoints.load_latest(*training.parts)


def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the kernel refuses the write in the middle of a file."""
    import resource
    import signal

    training = Training()
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(1, *training.parts, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # EFBIG instead of a signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        with pytest.raises((OSError, CheckpointException)) as full:
            checkpoints.save(2, *training.parts, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free space there" in (disk_trouble(full.value) or "")
    assert [p.name for p in checkpoints.whole()] == ["step-00000001"]
    checkpoints.save(2, *training.parts, {})
    assert [torn(p) for p in checkpoints.whole()] == [None, None]


def test_other_errors_are_not_blamed_on_the_disk() -> None:
    assert disk_trouble(ValueError("x")) is None
    assert disk_trouble(FileNotFoundError(2, "gone")) is None


def test_the_marker_names_every_file_with_its_checksum(tmp_path: Path) -> None:
    training = Training()
    Checkpoints(tmp_path, 1).save(7, *training.parts, {"seed": 3})
    folder = tmp_path / "step-00000007"
    marker = json.loads((folder / MARKER).read_text())
    assert marker["files"].keys() == {p.name for p in folder.iterdir()} - {MARKER}
    assert (marker["step"], marker["seed"]) == (7, 3)


def first_life(folder: Path) -> Checkpoints:
    """Told to start over in a folder that holds steps 30 and 40 of an earlier run; writes its own steps 10 and 20."""
    earlier, checkpoints = Training(), Checkpoints(folder, 2)
    for step in (30, 40):
        checkpoints.save(step, *earlier.parts, {"run": "earlier"})
    checkpoints = Checkpoints(folder, 2)
    assert checkpoints.may_start_over()
    checkpoints.start_over()
    training = Training()
    for step in (10, 20):
        checkpoints.save(step, *training.parts, {"run": "new"})
    return checkpoints


def test_starting_over_puts_the_earlier_checkpoints_aside(tmp_path: Path) -> None:
    folder, training = tmp_path / "checkpoints", Training()
    checkpoints = first_life(folder)
    assert [p.name for p in checkpoints.whole()] == ["step-00000010", "step-00000020"]
    state = checkpoints.load_latest(*training.parts)
    assert state is not None
    assert (state["step"], state["run"]) == (20, "new")
    aside = Checkpoints(tmp_path / "checkpoints.abandoned-1", 2)
    assert [torn(p) for p in aside.whole()] == [None, None]
    kept = aside.load_latest(*training.parts)
    assert kept is not None
    assert kept["run"] == "earlier"


def test_starting_over_is_done_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    first_life(folder)
    later = Checkpoints(folder, 2)  # started again by a supervisor, with the same settings
    assert not later.may_start_over()
    assert "carried out by an earlier life" in caplog.text
    later.allow_start_over()  # a life that was told to resume
    assert later.may_start_over()
    later.start_over()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoints",
        "checkpoints.abandoned-1",
        "checkpoints.abandoned-2",
    ]
    assert [p.name for p in folder.iterdir()] == [STARTED_OVER]


def test_a_fresh_run_that_starts_over_is_resumed_afterwards(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", 2)
    assert checkpoints.may_start_over()
    checkpoints.start_over()
    assert not checkpoints.may_start_over()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_torn_checkpoints_after_starting_over_name_the_note_to_delete(tmp_path: Path) -> None:
    checkpoints = first_life(tmp_path / "checkpoints")
    for path in checkpoints.whole():
        damage(path, "a flipped bit")
    with pytest.raises(ConfigError, match=rf"resume=false \(delete .*/{STARTED_OVER} first"):
        checkpoints.load_latest(*Training().parts)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_files_are_hashed_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    def read_back(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    training = Training()
    training.step(0)
    with monkeypatch.context() as patch:
        patch.setattr("rgopd.trainer.run.checkpoint._sha256", read_back)
        checkpoints = Checkpoints(tmp_path, 2, asynchronous=asynchronous)
        checkpoints.save(1, *training.parts, {})
        checkpoints.settle(wait=True)
    [path] = checkpoints.whole()
    assert torn(path) is None, "the digests are those of the files"
    named = json.loads((path / MARKER).read_text())["files"]
    assert set(named) == {file.name for file in path.iterdir()} - {MARKER}
    assert any(name.endswith(".distcp") for name in named)
    assert ".metadata" in named


def test_a_file_that_is_not_written_in_order_has_no_digest(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "a") as plain, HashedFile(tmp_path / "b") as patched:
        for file in (plain, patched):
            file.write(b"abc")
            file.seek(file.tell())
        patched.seek(0)
        patched.write(b"x")
        assert plain.digest == hashlib.sha256(b"abc").hexdigest()
        assert patched.digest is None


def test_in_the_background_on_a_gpu_unless_told_otherwise() -> None:
    assert CheckpointConfig().is_asynchronous(on_gpu=True)
    assert not CheckpointConfig().is_asynchronous(on_gpu=False)
    assert not CheckpointConfig(asynchronous=False).is_asynchronous(on_gpu=True)
    assert CheckpointConfig(asynchronous=True).is_asynchronous(on_gpu=False)
