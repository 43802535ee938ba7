"""`make soak`: many steps on tiny models; memory of every process and of Redis must come to rest.

SOAK_STEPS (2000) steps. After a warm-up of a quarter of them, no process may grow by more than 5% (or 8 MB, whichever
is more: page-sized noise on small processes), and at the end Redis holds what it held before the first step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from redis import Redis

from tests.chaos.cast import Cast, Nursery

ALLOWED = 0.05
ALLOWED_BYTES = 8 << 20


def resident(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total, queue = 0, [pid]
    while queue:
        process = Path(f"/proc/{queue.pop()}")
        try:
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
            for task in (process / "task").iterdir():
                queue += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def held(redis: Redis) -> int:
    """Bytes of the server's data but the teacher's score cache, which outlives runs and has a bound of its own."""
    info: Any = redis.info("memory")
    cache = sum(int(redis.memory_usage(key, samples=0) or 0) for key in redis.scan_iter(match="rgopd:{scores}:*"))
    return int(info["used_memory_dataset"]) - cache


def main() -> int:
    """Run; returns the exit code."""
    steps = int(os.environ.get("SOAK_STEPS") or 2000)
    folder = Path(tempfile.mkdtemp(prefix="rgopd-soak-"))
    nursery = Nursery(Path(__file__).parents[2])
    train = {"max_staleness": 1, "checkpoint": {"every": 50, "keep": 2, "asynchronous": True}}
    cast = Cast(nursery, folder / "run", steps=steps, train=train)
    redis = Redis.from_url(cast.valkey.url)
    base = held(redis)
    samples: list[tuple[int, dict[str, int]]] = []
    try:
        cast.start()
        while not cast.tend():
            row = {name: resident(pid) for name, pid in cast.running.items()}
            row["redis"] = held(redis)
            samples.append((cast.steps_done(), row))
            print(samples[-1][0], {name: value >> 20 for name, value in row.items()}, flush=True)
            time.sleep(max(1.0, steps / 200))
        left = held(redis)
    finally:
        cast.close()
        nursery.close()
    return judge(samples, steps, base, left)


def judge(samples: list[tuple[int, dict[str, int]]], steps: int, base: int, left: int) -> int:
    """Compare the second quarter of the run with the last one."""
    bad = 0
    for name in samples[-1][1]:
        early = median(row[name] for step, row in samples if steps / 4 <= step < steps / 2)
        late = median(row[name] for step, row in samples if step >= steps * 3 / 4)
        grown = late > early * (1 + ALLOWED) and late > early + ALLOWED_BYTES
        bad += grown
        print(json.dumps({"process": name, "early": early, "late": late, "ratio": late / early, "ok": not grown}))
    ok = left <= base + ALLOWED_BYTES
    print(json.dumps({"redis_before": base, "redis_after": left, "ok": ok}))
    return int(bad > 0 or not ok)


if __name__ == "__main__":
    sys.exit(main())
