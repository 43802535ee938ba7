"""`make chaos`: many drawn faults over one small run, compared with the undisturbed run.

CHAOS_SEED=N replays the faults of N; CHAOS_FAULTS sets how many. Exit code 1, and the folders kept, when the runs
differ.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.cast import Cast, Nursery, result
from tests.chaos.disturbed import play
from tests.chaos.faults import draw

STEPS = 100
TRAIN = {"max_staleness": 1, "checkpoint": {"every": 2, "keep": 2, "asynchronous": True}}


def main() -> int:
    """Run both; returns the exit code."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10_000))
    count = int(os.environ.get("CHAOS_FAULTS") or 30)
    print(f"CHAOS_SEED={seed} CHAOS_FAULTS={count}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=f"rgopd-chaos-{seed}-"))
    nursery = Nursery(Path(__file__).parents[2])
    try:
        first = Cast(nursery, folder / "undisturbed", steps=STEPS, train=TRAIN)
        play(first, first_step_s=180, limit_s=600, say=say)
        store = folder / "blobs"
        store.mkdir()
        where = {"blob_url": store.as_uri()} if seed % 2 else {}
        second = Cast(nursery, folder / "disturbed", steps=STEPS, train=TRAIN, common=where)
        faults = draw(seed, count, [*second.services, *second.rank_names], STEPS, store=bool(where))
        struck = len(play(second, faults, first_step_s=180, limit_s=600, say=say))
    finally:
        nursery.close()
    a, b = result(first.folder), result(second.folder)
    same = {name: getattr(a, name) == getattr(b, name) for name in ("weights", "ledger", "metrics")}
    print(f"{struck} faults struck, {len(second.deaths)} processes died; the same: {same}; weights {b.weights[:16]}")
    if struck < count:
        print(f"the run was over before {count} faults had struck; replay with CHAOS_SEED={seed}")
        return 1
    if all(same.values()):
        return 0
    print(f"the runs differ; they are in {folder}; replay with CHAOS_SEED={seed}")
    return 1


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
