"""The demo under each gate and seed: real runs of `rgopd demo`, one table.

    python -m benchmarks.demo.gates --out runs/gates [--seeds 0 1 2] [--gates paper released off]

Runs that are complete are not repeated, so it can be done in slices. Accuracies are greedy, on 500 held-out problems.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rgopd.trainer.records.metrics import read_json_lines


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """First and last evaluation of a complete run, or nothing."""
    path = folder / "metrics.jsonl"
    rows = [r for r in read_json_lines(path) if r["event"] == "eval"] if path.exists() else []
    return [rows[0], rows[-1]] if len(rows) > 1 and (folder / "report.html").exists() else []


def part(row: dict[str, Any], prefix: str) -> float:
    """Accuracy over the domains whose name starts with `prefix`."""
    chosen = [d for name, d in row["by_domain"].items() if name.startswith(prefix)]
    return sum(d["accuracy"] * d["problems"] for d in chosen) / sum(d["problems"] for d in chosen)


def table(out: Path, gates: list[str], seeds: list[int]) -> str:
    """Markdown: one row a gate."""
    lines = ["| gate | seeds | all | A (teacher good) | B (teacher wrong) | points |", "|---|---|---|---|---|---|"]
    start: dict[str, Any] = {}
    for gate in gates:
        runs = [e for seed in seeds if (e := evaluations(out / f"{gate}-{seed}"))]
        if not runs:
            continue
        start = runs[0][0]
        cells = [
            [f(after) for _, after in runs]
            for f in (lambda r: r["accuracy"], lambda r: part(r, "A"), lambda r: part(r, "B"))
        ]
        shown = [f"{statistics.mean(c):.3f} ± {statistics.stdev(c) if len(c) > 1 else 0:.3f}" for c in cells]
        gain = 100 * (statistics.mean(cells[0]) - start["accuracy"])
        lines.append(f"| `{gate}` | {len(runs)} | {' | '.join(shown)} | {gain:+.1f} |")
    if start:
        before = f"| student before | | {start['accuracy']:.3f} | {part(start, 'A'):.3f} | {part(start, 'B'):.3f} | |"
        lines.insert(2, before)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gates"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gates", nargs="+", default=["paper", "released", "off"])
    args = parser.parse_args()
    for seed in args.seeds:
        for gate in args.gates:
            folder = args.out / f"{gate}-{seed}"
            if evaluations(folder):
                continue
            started = time.monotonic()
            command = [sys.executable, "-m", "rgopd.cli.main", "demo", "--gate", gate, "--seed", str(seed)]
            subprocess.run([*command, "--output-dir", str(folder)], check=True, stdout=subprocess.DEVNULL)
            print(f"{gate} seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"{platform.processor() or platform.machine()}, {platform.system()}\n")
    print(table(args.out, args.gates, args.seeds))


if __name__ == "__main__":
    main()
