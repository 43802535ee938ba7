"""Waiting in tests: for the thing itself, and as long as a loaded machine may need; never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from rgopd.common.streams import GROUP, Streams


def eventually(condition: Callable[[], object], timeout_s: float = 120.0, every_s: float = 0.01) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(every_s)


def expire(streams: Streams, stream: str, share: float = 1.0) -> None:
    """Let every lease on the stream run out now, as if its holder had not been heard of for a share of its time."""
    key = streams.key(stream)
    for held in streams.redis.xpending_range(key, GROUP, "-", "+", 1000):
        streams.redis.xclaim(
            key, GROUP, held["consumer"], 0, [held["message_id"]], idle=int(share * streams.lease_ms) + 1, justid=True
        )
