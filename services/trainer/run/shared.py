"""Whether the ranks of several machines share what a run keeps in files: its folder, and its blobs outside of Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.streams import Streams
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.run.collective import agree, broadcast_bytes

LAG_S = 15.0
"""How long a network file system may not show another machine's file."""


def check_shared(folder: Path, streams: Streams, claim: Claim | None, *, lag_s: float = LAG_S) -> None:
    """Compare what this rank sees with what rank 0 marked. Collective.

    claim: rank 0's, taken; None on the others.

    Raises:
        ConfigError: on every rank, since a restart mends nothing; a rank that sees something else says what.
    """
    marked = json.loads(broadcast_bytes(json.dumps(claim.marks()).encode() if claim else None))
    problem = "" if claim else difference(folder, streams, marked, dist.get_rank(), lag_s)
    if agree(int(bool(problem))):
        if problem:
            raise ConfigError(problem)
        raise ConfigError(
            "a rank on another machine has another output_dir or blob_url than rank 0 (its log says which): mount one "
            "file system there on every machine of the run"
        )


def difference(folder: Path, streams: Streams, marked: dict[str, str], rank: int, lag_s: float = LAG_S) -> str:
    """What this rank sees otherwise than rank 0, and what to do; empty: nothing."""
    if not _soon(lambda: marked["instance"] in fleeting.text(folder / "run.json"), lag_s):
        return (
            f"output_dir={folder} is another folder for rank {rank} than for rank 0: checkpoints and policies need "
            "one on a file system that all machines of the run share"
        )
    blobs = streams.blobs
    if blobs.outside and not _soon(lambda: blobs.owner() == marked["token"], lag_s):
        return (
            f"blob_url {blobs.where} is another place for rank {rank} than for rank 0: mount one file system there on "
            "every machine of the run"
        )
    return ""


def _soon(test: Callable[[], bool], lag_s: float) -> bool:
    deadline = time.monotonic() + lag_s
    while not test():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True
