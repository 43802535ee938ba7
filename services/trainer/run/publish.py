"""Policies of a run: written to a folder, announced to the samplers, removed when nobody will ask for them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed as dist

from rgopd.common.policies import PolicyStore
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.student.model import Student, full_weights
from rgopd.trainer.student.weights import write_weights


class Publisher:
    """Publishes and retires the weights that the samplers sample with. Only `publish` is collective.

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

    def publish(self, student: Student, version: int) -> None:
        """Collective. Make the student's current weights policy `version`."""
        weights = full_weights(student, self.config.dtype)
        if dist.get_rank() != 0:
            return
        self.version = version
        write_weights(self.folder_of(version), weights, student.hf.config)
        self.announce()
        self._retire(version)
        if self.config.colocated:
            torch.cuda.empty_cache()  # for the samplers, whose turn it is

    def announce(self) -> None:
        """Tell the samplers of every version that a request may ask for, the newest last."""
        for version in range(max(0, self.version - self.config.max_staleness), self.version + 1):
            if (folder := self.folder_of(version)).exists():
                self.policies.announce(version, folder)

    def folder_of(self, version: int) -> Path:
        """Where a version's weights lie, or lay."""
        return self.folder / f"v{version:08d}"

    def close(self) -> None:
        """The run is over: a `policies_dir` outside the run folder (memory, perhaps) is given back."""
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
                shutil.rmtree(folder, ignore_errors=True)
