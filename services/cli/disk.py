"""What a run puts on its disks at the peak: checkpoints, policy versions, students, and downloads from the hub."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.cli.readiness import repos_of
from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.hub import bytes_here, offline, size_of
from rgopd.common.signs import gb
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.estimate import BYTES, MASTER, ModelShape, adapter_parameters

MARGIN = 1 << 30
"""Logs, metrics, kept rollouts and Redis' file."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that will be in a folder at the peak, less what is there already."""

    folder: Path
    what: str
    size: int


def checkpoint_bytes(train: TrainConfig, shape: ModelShape) -> int:
    """Of one checkpoint: float32 weights and both moments of what is trained, over all ranks."""
    trained = shape.parameters if train.lora is None else adapter_parameters(shape, train.lora.r)
    return 3 * MASTER * trained


def run_needs(train: TrainConfig, shape: ModelShape) -> list[DiskNeed]:
    """Of the run folder and of `policies_dir`."""
    stale, keep = train.max_staleness, train.checkpoint.keep
    weights = BYTES[train.dtype] * shape.parameters
    policies = stale + train.keep_policies + keep * stale + 1
    students = 1 + bool(train.eval.dataset and train.eval.keep_best)
    one = checkpoint_bytes(train, shape)
    run = train.output_dir
    published = train.policies_dir or run / "policies"
    kept = f"{keep + 1} checkpoints of {gb(one)} GB: {keep} kept, one being written"
    found = [
        (run / "checkpoints", kept, (keep + 1) * one),
        (published, f"{policies} policy versions of {gb(weights)} GB", policies * weights),
        (run / "student", f"{students} exported students", students * weights),
        (run, "logs and Redis", MARGIN),
    ]
    here = {folder: 0 if folder == run else fleeting.tree_size(folder) for folder, _, _ in found}
    return [DiskNeed(folder, what, max(0, size - here[folder])) for folder, what, size in found]


def download_needs(sections: dict[str, Any]) -> list[DiskNeed]:
    """Of the hub's cache: what of the models is not in it yet. Empty offline, and where the hub does not answer."""
    repos = {repo for role in ("teacher", "sampler", "train") for repo in repos_of(sections, role)}
    if not repos or offline():
        return []
    from huggingface_hub.constants import HF_HUB_CACHE

    found = []
    for repo in sorted(repos, key=lambda each: each.name):
        try:
            missing = max(0, size_of(repo) - bytes_here(repo))
        except ConfigError:  # other checks tell of a hub that is away
            continue
        found.append(DiskNeed(Path(HF_HUB_CACHE), f"{gb(missing)} GB of {repo.name} to download", missing))
    return found


def shortages(needs: list[DiskNeed]) -> list[str]:
    """For each disk that is too small: what was to go there, and what it has."""
    by_disk: dict[int, list[DiskNeed]] = defaultdict(list)
    free: dict[Path, int] = {}
    for need in needs:
        device, free[need.folder] = fleeting.disk(need.folder)
        by_disk[device].append(need)
    texts = []
    for group in by_disk.values():
        wanted, left = sum(need.size for need in group), free[group[-1].folder]
        if wanted > left:
            what = ", ".join(need.what for need in group if need.size)
            texts.append(f"{group[0].folder} needs {gb(wanted)} GB ({what}), and its disk has {gb(left)} GB free")
    return texts
