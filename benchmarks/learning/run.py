"""Run the comparison, in slices if need be: each run is one JSON file, and what is there already is not run again.

python -m benchmarks.learning.run --out benchmarks/learning/runs --slice 0/2 &
python -m benchmarks.learning.run --out benchmarks/learning/runs --slice 1/2
python -m benchmarks.learning.table --runs benchmarks/learning/runs
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers.utils import logging as transformers_logging

from benchmarks.learning.distil import Arena
from benchmarks.learning.methods import ABLATION, ALL, MAIN, STEPS, WHY


def jobs(seeds: int, names: list[str]) -> list[tuple[str, int]]:
    """All methods of Table 1 with one seed, then with the next; then the others: a run cut short is still a table."""
    groups = ([*MAIN], [*ABLATION], [*WHY])
    return [(n, s) for group in groups for s in range(seeds) for n in group if n in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/learning/runs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--eval", type=int, default=500)
    parser.add_argument("--methods", nargs="*", default=list(ALL), choices=list(ALL))
    parser.add_argument("--slice", default="0/1", help="this process takes every n-th run: i/n")
    parser.add_argument("--until", type=float, default=0.0, help="start no run after so many minutes; 0: run all")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    index, slices = map(int, args.slice.split("/"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        for name, seed in jobs(args.seeds, args.methods)[index::slices]:
            target = args.out / f"{name}-{seed}.json"
            if target.exists():
                continue
            if args.until and time.monotonic() - started > 60 * args.until:
                print(f"stopped before {name} seed {seed}: {args.until:.0f} minutes are over")
                break
            run_one(name, seed, args.steps, args.eval, target)
        dist.destroy_process_group()


def run_one(name: str, seed: int, steps: int, eval_problems: int, target: Path) -> None:
    """Write a run's result, whole or not at all."""
    torch.manual_seed(seed)
    started, cpu = time.perf_counter(), time.process_time()
    result = Arena(seed, steps, eval_problems).run(ALL[name])
    result |= {
        "method": name,
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
    }
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.rename(target)
    before, after = result["before"], result["after"]
    scores = " ".join(f"{d} {before[d]:.3f}->{after[d]:.3f}" for d in ("all", "A", "B"))
    print(f"{name} seed {seed}: {scores} ({result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
