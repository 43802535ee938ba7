"""`rgopd queues`: what waits, who holds it, what was given up; replay or drop it; sweep what dead runs left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rich.console import Console
from rich.table import Table

from rgopd.common.errors import InvalidInput
from rgopd.common.streams import GROUP, DeadLetter, Streams

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


def runs(redis: Redis) -> list[str]:
    """Runs that have anything in this server."""
    found = (_RUN_KEY.match(key) for key in redis.scan_iter(match="rgopd:{*", count=1000))
    return sorted({match.group(1).decode() for match in found if match})


def queues(streams: Streams) -> list[Queue]:
    """All streams of a run but the dead letters."""
    seconds, micros = streams.redis.time()
    now_ms = seconds * 1000 + micros // 1000
    return [_queue(streams, name, now_ms) for name in stream_names(streams) if name != "dead"]


def stream_names(streams: Streams) -> list[str]:
    """The streams of a run that exist, dead letters included."""
    matches = (_STREAM_KEY.search(key) for key in streams.redis.scan_iter(match=streams.key("*"), count=1000))
    return sorted(match.group(1).decode() for match in matches if match)


def _queue(streams: Streams, name: str, now_ms: int) -> Queue:
    depth = streams.depth(name)
    oldest: Any = streams.redis.xrange(streams.key(name), count=1)
    age_ms = now_ms - int(oldest[0][0].split(b"-")[0]) if oldest else 0
    leased = streams.redis.xpending_range(streams.key(name), GROUP, "-", "+", 1000) if depth["leased"] else []
    attempts = max((int(entry["times_delivered"]) for entry in leased), default=0)
    return Queue(name, depth["backlog"], depth["leased"], age_ms / 1000, attempts, len(streams.consumers(name)))


def idle_s(streams: Streams) -> float | None:
    """How long ago any worker or trainer last asked for a message of this run; None: nobody ever did."""
    idles = [consumer.idle_ms for name in stream_names(streams) for consumer in streams.consumers(name)]
    return min(idles) / 1000 if idles else None


def sweep(redis: Redis, older_than_s: float) -> Iterator[tuple[str, int]]:
    """Delete the keys of runs that nobody has worked on for so long; yields (run, keys deleted)."""
    for run in runs(redis):
        streams = Streams(redis, run)
        idle = idle_s(streams)
        if idle is not None and idle > older_than_s:
            yield run, streams.purge()


def chosen_letters(streams: Streams, which: str) -> list[DeadLetter]:
    """The dead letters that `which` names: an id, a stream, or `all`.

    Raises:
        InvalidInput: it names none.
    """
    letters = streams.dead_letters(count=10_000)
    chosen = [letter for letter in letters if which in ("all", letter.id, letter.stream)]
    if not chosen:
        raise InvalidInput(
            f"no dead letter {which!r}; there are {len(letters)}: name one by its id, a stream, or write all"
        )
    return chosen


def show(streams: Streams, console: Console) -> None:
    """Tables of one run."""
    table = Table("stream", "waiting", "leased", "oldest", "deliveries", "consumers", title=f"run {streams.run_id}")
    for queue in queues(streams):
        waiting, oldest = queue.backlog - queue.leased, f"{queue.oldest_s:.1f} s" if queue.backlog else ""
        attempts = str(queue.attempts) if queue.leased else ""
        table.add_row(queue.stream, str(waiting), str(queue.leased), oldest, attempts, str(queue.consumers))
    console.print(table)
    letters = streams.dead_letters(count=20)
    if letters:
        dead = Table("id", "stream", "deliveries", "reason", title="dead letters (the oldest 20)")
        for letter in letters:
            dead.add_row(letter.id, letter.stream, str(letter.attempts), letter.reason[:300])
        console.print(dead)
