"""Policies of a run: written to a folder, announced to the samplers, removed when nobody will ask for them again."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rgopd.common.policies import PolicyStore, digest
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.student.adapter import CONFIG, adapter_weights, merged_policy, write_adapter
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Published, Student, published
from rgopd.trainer.student.weights import stream_weights, write_weights


class Publisher:
    """Publishes and retires the weights that the samplers sample with. Only `publish` is collective.

    With `max_staleness` the next step does not wait for a version, so that it is written while training goes on, from a
    copy in host memory.

    Args:
        config: the run's; its `policies_dir`, or `policies` in the run folder, is where the versions lie.
        policies: where the samplers hear of them.
        checkpoints: what a resumed run may go on from, and hence which versions it will ask for.
    """

    def __init__(self, config: TrainConfig, policies: PolicyStore, checkpoints: Checkpoints) -> None:
        self.config = config
        self.policies = policies
        self.checkpoints = checkpoints
        self.folder = config.policies_dir or config.output_dir / "policies"
        self.version = 0
        self._digests: dict[int, str] = {}
        self._thread = ThreadPoolExecutor(1, "publish") if config.max_staleness else None
        self._writing: Future[None] | None = None

    def publish(self, student: Student, version: int) -> None:
        """Collective. Make the student's current weights policy `version`.

        Raises:
            OSError: it, or the version before, could not be written.
        """
        self.settle()
        if self.config.lora is not None and self.config.lora.publish == "adapter":
            self._publish_adapter(student, version, self.config.lora)
            return
        weights = published(student, self.config.dtype)
        if dist.get_rank() != 0:
            for _ in weights.tensors:  # takes part in the gathering
                pass
        elif self._thread is None:
            self._write(version, weights, student.hf.config)
        else:
            copied = {name: tensor.clone() for name, tensor in weights.tensors}  # training changes the parameters
            weights = Published(weights.shapes, iter(copied.items()))
            self._writing = self._thread.submit(self._write, version, weights, student.hf.config)
        if self.config.colocated:
            torch.cuda.empty_cache()  # for the samplers, whose turn it is

    def settle(self) -> None:
        """Wait for the version that is still being written.

        Raises:
            OSError: it could not be.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _publish_adapter(self, student: Student, version: int, lora: LoraOptions) -> None:
        """Small enough to be written at once."""
        weights = adapter_weights(student)
        if dist.get_rank() == 0:
            sha256 = write_adapter(self.folder_of(version), weights, lora, self.config.student)
            self._announce_new(version, sha256)

    def _write(self, version: int, weights: Published, config: Any) -> None:
        folder = self.folder_of(version)
        self._announce_new(version, stream_weights(folder, weights.shapes, weights.tensors, config))

    def _announce_new(self, version: int, sha256: str) -> None:
        self._digests[version] = sha256
        self.version = version
        self.announce()
        self._retire(version)

    def whole(self, version: int) -> Path:
        """A folder that loads as an ordinary model: the version's own, or one in which its adapters are merged."""
        folder = self.folder_of(version)
        if self.config.lora is None or not (folder / CONFIG).exists():
            return folder
        merged = self.folder / "merged"
        write_weights(merged, *merged_policy(folder, self.config.student, self.config.lora, self.config.dtype))
        return merged

    def announce(self) -> None:
        """Tell the samplers of every version that a request may ask for, the newest last."""
        for version in range(max(0, self.version - self.config.max_staleness), self.version + 1):
            if (folder := self.folder_of(version)).exists():
                if version not in self._digests:  # of an earlier life: read once
                    self._digests[version] = digest(folder)
                self.policies.announce(version, folder, self._digests[version])

    def folder_of(self, version: int) -> Path:
        """Where a version's weights lie, or lay."""
        return self.folder / f"v{version:08d}"

    def close(self) -> None:
        """The run is over: a `policies_dir` outside the run folder (memory, perhaps) is given back."""
        self.settle()
        if self.config.policies_dir is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _retire(self, version: int) -> None:
        """Remove policies that neither this life nor one resumed from a checkpoint will ask for."""
        stale, steps = self.config.max_staleness, [int(p.name.rpartition("-")[2]) for p in self.checkpoints.whole()]
        needed = set(range(version - stale - self.config.keep_policies + 1, version + 1))
        needed |= {v for step in steps for v in range(step - stale, step)}
        for folder in sorted(self.folder.glob("v????????")):
            if (old := int(folder.name[1:])) < version and old not in needed:
                self.policies.withdraw(old)
                self._digests.pop(old, None)
                shutil.rmtree(folder, ignore_errors=True)
