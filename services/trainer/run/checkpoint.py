"""Checkpoints: weights, optimiser, schedule and the step, written aside by all ranks and renamed by rank 0.

Everything else of a run (data order, seeds, names of groups, policy version, random numbers of a step) is a function
of the run's seed and the step, so it needs no saving. The marker file comes last and holds the sha256 of every other
file; a folder without it, or with a file that does not fit it, is torn and is passed over with a warning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map_only

from rgopd.common.errors import ConfigError
from rgopd.trainer.run.collective import broadcast_bytes
from rgopd.trainer.run.hashed_files import HashedWriter
from rgopd.trainer.student.model import Student

log = logging.getLogger(__name__)

MARKER = "trainer_state.json"

STARTED_OVER = "started-over"
"""In the folder of checkpoints: `checkpoint.resume=false` was carried out, so the lives that follow resume."""


class _Sharded(Stateful):
    """Model and optimiser as torch's distributed checkpoint wants them."""

    def __init__(self, student: Student, optimizer: Optimizer) -> None:
        self.student = student
        self.optimizer = optimizer

        # With LoRA the base never changes: it is read again from where the run found it.
        frozen = any(not p.requires_grad for p in student.parameters())
        self.options = StateDictOptions(ignore_frozen_params=frozen, strict=not frozen)

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.student, self.optimizer, options=self.options)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        set_state_dict(
            self.student,
            self.optimizer,
            model_state_dict=state_dict["model"],
            optim_state_dict=state_dict["optimizer"],
            options=self.options,
        )


@dataclass(frozen=True)
class _Writing:
    """A checkpoint that a background thread still writes."""

    done: Future[Any]
    partial: Path
    marker: dict[str, Any]
    sums: dict[str, str]
    """Digests of the files that this rank has written so far."""


class Checkpoints:
    """The checkpoints of one run folder. Every method but `whole` is collective.

    Args:
        folder: where they are; visible to all ranks.
        keep: how many whole ones stay.
        asynchronous: copy the state and write it while training goes on; it becomes a checkpoint at a later `settle`.
    """

    def __init__(self, folder: Path, keep: int, *, asynchronous: bool = False) -> None:
        self.folder = folder
        self.keep = keep
        # Its own group: the background thread's collectives must not interleave with the training's.
        self._group = dist.new_group(backend="gloo") if asynchronous else None
        self._writing: _Writing | None = None

    def save(
        self, step: int, student: Student, optimizer: Optimizer, scheduler: LRScheduler, state: dict[str, Any]
    ) -> None:
        """Write a checkpoint. `step` is the next step to take; `state` is plain data.

        Raises:
            OSError, CheckpointException: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        self.settle(wait=True)
        partial = self._path(step).with_name(self._path(step).name + ".partial")
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        marker = {**state, "step": step, "schedule": scheduler.state_dict()}
        content = {"run": _Sharded(student, optimizer).state_dict()}
        writer = HashedWriter(partial)
        if self._group is None:
            save(content, storage_writer=writer)
            self._publish(partial, marker, writer.sums)
            return
        # On a GPU, DCP copies to the CPU itself; what is on the CPU already it would write while it changes.
        content = tree_map_only(torch.Tensor, lambda t: t.clone() if t.device.type == "cpu" else t, content)
        done = async_save(content, storage_writer=writer, process_group=self._group)
        assert isinstance(done, Future)
        self._writing = _Writing(done, partial, marker, writer.sums)

    def settle(self, *, wait: bool = False) -> None:
        """Make a checkpoint of what the background has written, once all ranks have; `wait` for it if need be."""
        if self._writing is None:
            return
        ready = torch.tensor(int(wait or self._writing.done.done()))
        dist.all_reduce(ready, op=dist.ReduceOp.MIN)
        if not int(ready):
            return
        writing, self._writing = self._writing, None
        writing.done.result()
        self._publish(writing.partial, writing.marker, writing.sums)

    def whole(self) -> list[Path]:
        """Checkpoints with a marker, oldest first."""
        return sorted(p.parent for p in self.folder.glob(f"step-*/{MARKER}") if p.parent.suffix != ".partial")

    def load_latest(self, student: Student, optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, Any] | None:
        """Restore the newest checkpoint that is whole and return its state, or None where there never was one.

        Raises:
            ConfigError: there are checkpoints, and none is whole.
        """
        name = broadcast_bytes(self._newest().encode() if dist.get_rank() == 0 else None).decode()
        if name == _NONE:
            return None
        if name.startswith(_TORN):
            raise ConfigError(name.removeprefix(_TORN))
        path = self.folder / name
        load({"run": _Sharded(student, optimizer)}, checkpoint_id=str(path))
        state: dict[str, Any] = json.loads((path / MARKER).read_text())
        scheduler.load_state_dict(state.pop("schedule"))
        log.info("resumed from %s", name)
        return state

    def may_start_over(self) -> bool:
        """Whether `checkpoint.resume=false` is still to be carried out.

        Once: whoever starts a dead trainer again passes the same settings, and progress since must not be lost.
        """
        mark = self.folder / STARTED_OVER
        done = broadcast_bytes(str(int(mark.exists())).encode() if dist.get_rank() == 0 else None) == b"1"
        if done and dist.get_rank() == 0:
            log.warning(
                "checkpoint.resume=false was carried out by an earlier life of this run, whose checkpoints are resumed "
                "from; delete %s to start over again",
                mark,
            )
        return not done

    def start_over(self) -> None:
        """Put earlier checkpoints aside, whole, and note that it was done. The run folder must be locked."""
        if dist.get_rank() == 0:
            if self.folder.exists() and any(self.folder.iterdir()):
                number = 1
                while (aside := self.folder.with_name(f"{self.folder.name}.abandoned-{number}")).exists():
                    number += 1
                self.folder.rename(aside)
                log.warning("checkpoint.resume=false: starting over; earlier checkpoints are in %s", aside)
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / STARTED_OVER, "")
            _sync_folder(self.folder)
            _sync_folder(self.folder.parent)
        dist.barrier()

    def allow_start_over(self) -> None:
        """A life that was told to resume: a later `checkpoint.resume=false` is a new wish."""
        if dist.get_rank() == 0:
            (self.folder / STARTED_OVER).unlink(missing_ok=True)

    def _newest(self) -> str:
        found = self.whole()
        for path in reversed(found):
            if (why := torn(path)) is None:
                return path.name
            log.warning("checkpoint %s is torn and is passed over: %s", path.name, why)
        if not found:
            return _NONE
        mark = self.folder / STARTED_OVER
        also = f" (delete {mark} first: it says that this was done once)" if mark.exists() else ""
        return (
            f"{_TORN}all {len(found)} checkpoints in {self.folder} are torn; restore one from a copy, or start over "
            f"with --set checkpoint.resume=false{also}"
        )

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _publish(self, partial: Path, marker: dict[str, Any], written: Mapping[str, str]) -> None:
        """Checksums by those who wrote the files, as they wrote them; marker last, one rename."""
        rank = dist.get_rank()
        mine = [p for p in partial.iterdir() if _belongs(p.name, rank)]
        sums = {p.name: written.get(p.name) or _sha256(p) for p in mine}
        _write(partial / f"sums-{rank:05d}.json", json.dumps(sums))
        dist.barrier()
        if rank == 0:
            files: dict[str, str] = {}
            for part in sorted(partial.glob("sums-*.json")):
                files |= json.loads(part.read_text())
                part.unlink()
            _write(partial / MARKER, json.dumps({**marker, "files": files}))
            _sync_folder(partial)
            target = partial.with_suffix("")
            shutil.rmtree(target, ignore_errors=True)  # only ever a torn one: whole ones are resumed from
            partial.rename(target)
            _sync_folder(self.folder)
            self._prune(target)
        dist.barrier()

    def _prune(self, newest: Path) -> None:
        for old in [p for p in self.whole() if p.name < newest.name][: -self.keep + 1 or None]:
            (old / MARKER).unlink()  # no longer whole, whatever happens to the rest
            shutil.rmtree(old, ignore_errors=True)
        for stray in self.folder.glob("step-*"):
            if stray.name < newest.name and not (stray / MARKER).exists():
                shutil.rmtree(stray, ignore_errors=True)


_NONE = "none"
_TORN = "torn: "


def torn(path: Path) -> str | None:
    """Why a checkpoint folder cannot be trusted; None when it can."""
    try:
        files: dict[str, str] = json.loads((path / MARKER).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{MARKER}: {error}"
    for name, expected in files.items():
        try:
            actual = _sha256(path / name)
        except OSError as error:
            return f"{name}: {error}"
        if actual != expected:
            return f"{name}: sha256 {actual[:12]}..., written was {expected[:12]}..."
    return None


def _belongs(name: str, rank: int) -> bool:
    """DCP names a rank's shards __<rank>_<n>.distcp; all else is the coordinator's."""
    if name.startswith("sums-"):
        return False
    return name.startswith(f"__{rank}_") or (rank == 0 and not name.startswith("__"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_trouble(error: BaseException) -> str | None:
    """What to tell a person when an error is the disk's; None when it is something else."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return f"cannot write to the run folder: {cause}; free space there or make it writable"
        if "inline_container" in str(cause):  # torch's file writer, which hides the error that stopped it
            return f"cannot write a checkpoint: {cause}; the disk is full or too small: free space there"
    return None


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, also through torch's CheckpointException, which holds one error a rank."""
    yield error
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict):
        for failure in failures.values():
            yield from _causes(failure[0] if isinstance(failure, tuple) else failure)
    if (cause := error.__cause__ or error.__context__) is not None:
        yield from _causes(cause)
