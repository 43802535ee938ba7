"""Collectives of plain bytes: what ranks tell each other is data, never pickles."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from rgopd.common.errors import Unavailable


def local_rank() -> int:
    """Which of the ranks on this machine this process is, as torchrun says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def agree(code: int) -> int:
    """The largest code of any rank, on all of them."""
    worst = torch.tensor(code)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return int(worst)


def broadcast_bytes(data: bytes | None) -> bytes:
    """Rank 0 passes bytes, the others None; all get the bytes.

    Raises:
        Unavailable: on the other ranks, when rank 0 sent nothing: it failed and says why itself.
    """
    if dist.get_world_size() == 1:
        assert data is not None
        return data
    length = torch.tensor([len(data or b"")], dtype=torch.int64)
    dist.broadcast(length, src=0)
    if int(length) == 0:
        if dist.get_rank() == 0:
            return b""
        raise Unavailable("rank 0 stopped; its log says why")
    buffer = torch.zeros(int(length), dtype=torch.uint8)
    if data is not None:
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()
