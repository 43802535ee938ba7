"""What a run tells: metrics.jsonl (the same for the same seed), timings.jsonl (the clock's part), and Redis.

metrics.jsonl holds only what seed and data decide, so that two runs can be compared byte by byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rgopd.common.streams import GENERATE, RESULTS, SCORE, VERIFY, Streams

RECENT = 64


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
    """A run's state in Redis, for whoever watches: hash `state`, list `recent` of the last rollouts."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.prefix = f"rgopd:{{{streams.run_id}}}"

    def publish(self, row: Mapping[str, Any]) -> None:
        """The newest step's metrics and the queues' depths."""
        depths = {name: self.streams.depth(name) for name in (GENERATE, VERIFY, SCORE, RESULTS)}
        self.streams.redis.hset(
            f"{self.prefix}:state", mapping={"metrics": json.dumps(row), "queues": json.dumps(depths)}
        )

    def add_recent(self, rollouts: list[dict[str, Any]]) -> None:
        """Rollouts with their per-token teacher-student gaps; the last 64 are kept."""
        if not rollouts:
            return
        pipe = self.streams.redis.pipeline()
        pipe.lpush(f"{self.prefix}:recent", *[json.dumps(r) for r in rollouts])
        pipe.ltrim(f"{self.prefix}:recent", 0, RECENT - 1)
        pipe.execute()
