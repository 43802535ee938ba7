"""What a run's streams hold, read only: depth, leases, ages, consumers. `rgopd queues` and `rgopd watch` show it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis import Redis

from rgopd.common.streams import GROUP, Streams

_RUN_KEY = re.compile(rb"^rgopd:\{([A-Za-z0-9._-]+)\}:")
_STREAM_KEY = re.compile(rb":stream:([A-Za-z0-9_-]+)$")


@dataclass(frozen=True)
class Queue:
    """One stream of a run. Ages in seconds; `attempts` is the largest count of deliveries among leased messages."""

    stream: str
    backlog: int
    leased: int
    oldest_s: float
    attempts: int
    consumers: int


def runs(*servers: Redis) -> list[str]:
    """Runs that have anything in these servers."""
    found = (_RUN_KEY.match(key) for redis in servers for key in redis.scan_iter(match="rgopd:{*", count=1000))
    return sorted({match.group(1).decode() for match in found if match})


def queues(streams: Streams, names: Iterable[str] | None = None) -> list[Queue]:
    """All streams of a run but the dead letters; `names`: those already known, which saves a scan of all keys."""
    known = [name for name in (stream_names(streams) if names is None else names) if name != "dead"]
    now_ms = {id(part): server_ms(part) for part in streams.parts}
    found = [[_queue(part, name, now_ms[id(part)]) for part in streams.parts_of(name)] for name in known]
    return [_together(parts, len(streams.consumers(name))) for name, parts in zip(known, found, strict=True)]


def _together(parts: list[Queue], consumers: int) -> Queue:
    """One stream on several servers."""
    return Queue(
        parts[0].stream,
        sum(part.backlog for part in parts),
        sum(part.leased for part in parts),
        max(part.oldest_s for part in parts),
        max(part.attempts for part in parts),
        consumers,
    )


def server_ms(streams: Streams) -> int:
    """The server's clock in milliseconds: the one that message ids and leases are counted by."""
    seconds, micros = streams.redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def stream_names(streams: Streams) -> list[str]:
    """The streams of a run that exist, dead letters included."""
    keys = {key for part in streams.parts for key in part.redis.scan_iter(match=streams.key("*"), count=1000)}
    matches = (_STREAM_KEY.search(key) for key in keys)
    return sorted(match.group(1).decode() for match in matches if match)


def _queue(streams: Streams, name: str, now_ms: int) -> Queue:
    depth = streams.depth(name)
    oldest: Any = streams.redis.xrange(streams.key(name), count=1)
    age_ms = now_ms - int(oldest[0][0].split(b"-")[0]) if oldest else 0
    leased = streams.redis.xpending_range(streams.key(name), GROUP, "-", "+", 1000) if depth["leased"] else []
    attempts = max((int(entry["times_delivered"]) for entry in leased), default=0)
    return Queue(name, depth["backlog"], depth["leased"], age_ms / 1000, attempts, 0)


def idle_s(streams: Streams) -> float | None:
    """How long ago any worker or trainer last asked for a message of this run; None: nobody ever did."""
    idles = [consumer.idle_ms for name in stream_names(streams) for consumer in streams.consumers(name)]
    return min(idles) / 1000 if idles else None
