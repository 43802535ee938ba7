"""What a run tells: metrics.jsonl (the same for the same seed), timings.jsonl (the clock's part), and Redis.

metrics.jsonl holds only what seed and data decide, so that two runs can be compared byte by byte.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from rgopd.common.streams import GENERATE, RESULTS, SCORE, VERIFY, Streams

log = logging.getLogger(__name__)

RECENT, EVENTS, ROWS = 64, 256, 1_000
STATUS_TTL_S = 600


class JsonLines:
    """An append-only file of JSON objects, flushed a line at a time."""

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
        """`keep`: which rows of an earlier life stay; the others will be made again."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [row for row in read_json_lines(path) if keep(row)]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """To the disk itself: before a checkpoint says that these lines are part of the run."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last line (a crash while writing) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class RunState:
    """A run's state in Redis, for whoever watches from elsewhere (docs/run-folder.md). All of it bounded."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.prefix = f"rgopd:{{{streams.run_id}}}"

    def publish(self, row: Mapping[str, Any]) -> dict[str, dict[str, int]]:
        """The newest step's metrics and the queues' depths, which are returned."""
        depths = {name: self.streams.depth(name) for name in (GENERATE, VERIFY, SCORE, RESULTS)}
        state: Any = {"metrics": json.dumps(row), "queues": json.dumps(depths)}
        pipe = self.streams.redis.pipeline()
        pipe.hset(f"{self.prefix}:state", mapping=state)
        pipe.expire(f"{self.prefix}:state", self.streams.stream_ttl_s)
        pipe.execute()
        return depths

    def add_row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl; the last 1,000 are kept, oldest first."""
        self._push("rows", [row], ROWS, newest_first=False)

    def restart_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A life begins with the rows of earlier ones that stay."""
        self.streams.redis.delete(f"{self.prefix}:rows")
        self._push("rows", rows[-ROWS:], ROWS, newest_first=False)

    def add_recent(self, rollouts: list[dict[str, Any]]) -> None:
        """Rollouts with their per-token teacher-student gaps; the last 64 are kept."""
        self._push("recent", rollouts, RECENT)

    def hear(self, kind: str, row: Mapping[str, Any]) -> None:
        """For `Live.hear`: a status, or an event. Redis may be away: then they are only in the folder."""
        try:
            if kind == "status":
                self.streams.redis.set(f"{self.prefix}:status", json.dumps(row), ex=STATUS_TTL_S)
            else:
                self._push("events", [row], EVENTS)
        except RedisError as error:
            log.debug("%s is not in Redis: %s", kind, error)

    def _push(self, name: str, rows: Sequence[Mapping[str, Any]], limit: int, *, newest_first: bool = True) -> None:
        if not rows:
            return
        key, values = f"{self.prefix}:{name}", [json.dumps(row) for row in rows]
        pipe = self.streams.redis.pipeline()
        if newest_first:
            pipe.lpush(key, *values)
            pipe.ltrim(key, 0, limit - 1)
        else:
            pipe.rpush(key, *values)
            pipe.ltrim(key, -limit, -1)
        pipe.expire(key, self.streams.stream_ttl_s)
        pipe.execute()
