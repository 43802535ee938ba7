"""Tables and curves out of the runs that are there: RESULTS.md and curves.png.

python -m benchmarks.learning.table --runs benchmarks/learning/runs
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.learning.methods import ABLATION, ALL, MAIN, WHY

COLUMNS = ("A/math", "A/code", "B/math", "B/code")
Runs = dict[str, list[dict[str, Any]]]


def read(folder: Path) -> Runs:
    """Finished runs by method, seeds in order."""
    runs: Runs = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        runs[run["method"]].append(run)
    return runs


def score(run: dict[str, Any], column: str, when: str = "after") -> float:
    """Greedy accuracy in percent; `mean` is over the columns, as the paper's average is over benchmarks."""
    if column == "mean":
        return sum(score(run, c, when) for c in COLUMNS) / len(COLUMNS)
    return 100.0 * run[when][column]


def spread(values: list[float]) -> str:
    """mean ± sample standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def ranks(runs: Runs, names: list[str]) -> dict[str, float]:
    """Mean rank over the columns, the untrained student among the ranked; equal scores share their mean rank."""
    start = runs[names[0]][0]
    totals: dict[str, float] = defaultdict(float)
    for column in COLUMNS:
        means = {n: statistics.mean(score(r, column) for r in runs[n]) for n in names}
        means["student"] = score(start, column, "before")
        for name, value in means.items():
            better = sum(v > value for v in means.values())
            equal = sum(v == value for v in means.values())
            totals[name] += better + (equal + 1) / 2
    return {name: total / len(COLUMNS) for name, total in totals.items()}


def main_table(runs: Runs, names: list[str], *, with_ranks: bool) -> list[str]:
    """The paper's Table 1: one row a method, Δ against the untrained student."""
    head = ["method", "seeds", *COLUMNS, "avg", "Δ", *(["avg rank"] if with_ranks else [])]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    start = runs[names[0]][0]
    rank = ranks(runs, names) if with_ranks else {}
    base = score(start, "mean", "before")
    if with_ranks:
        before = [f"{score(start, c, 'before'):.1f}" for c in (*COLUMNS, "mean")]
        lines.append("| " + " | ".join(["student", "", *before, "", f"{rank['student']:.2f}"]) + " |")
    for name in names:
        cells = [spread([score(r, c) for r in runs[name]]) for c in (*COLUMNS, "mean")]
        delta = statistics.mean(score(r, "mean") for r in runs[name]) - base
        row = [ALL[name].title, str(len(runs[name])), *cells, f"{delta:+.1f}", *([f"{rank[name]:.2f}"] if rank else [])]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def gate_table(runs: Runs, names: list[str]) -> list[str]:
    """What the gate kept over the run: share of response tokens, by domain and sign of the advantage."""
    signs = ("positive", "negative", "zero_right", "zero_wrong")
    head = ["method", *(f"{d} {s.replace('_', ' ')}" for d in "AB" for s in signs)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        cells = []
        for key in (f"{d}_{s}" for d in "AB" for s in signs):
            steps = [step for run in runs[name] for step in run["steps"]]
            kept, total = (sum(s.get(f"{what}_{key}", 0.0) for s in steps) for what in ("kept", "tokens"))
            everything = sum(s["response_tokens"] for s in steps)
            cells.append(f"{kept / total:.2f} of {total / everything:.0%}" if total else "none")
        lines.append("| " + " | ".join([ALL[name].title, *cells]) + " |")
    return lines


def curves(runs: Runs, names: list[str], target: Path) -> None:
    """The paper's Figure 2: kept fraction, response length and loss over the steps, mean of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {"kept_fraction": "kept token fraction", "length": "response length (tokens)", "loss": "loss (nats/token)",
              "reward_A": "train reward, domain A", "reward_B": "train reward, domain B"}  # fmt: skip
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.2))
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for name in names:
            columns = zip(*([step[key] for step in run["steps"]] for run in runs[name]), strict=True)
            axis.plot([statistics.mean(c) for c in columns], label=ALL[name].title.replace("`", ""))
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, dpi=90)


def report(runs: Runs, figure: str) -> str:
    """RESULTS.md."""
    every = [r for found in runs.values() for r in found]
    steps = len(every[0]["steps"])
    cpu = sum(r["cpu_seconds"] for r in every)
    first = [n for n in MAIN if n in runs]
    lines = [
        "# Learning on the demo's task",
        "",
        f"{date.today().isoformat()}, {platform.machine()}, {every[0]['cores']} cores, torch {every[0]['torch']}; "
        f"{len(every)} runs, {cpu / 60:.0f} CPU minutes ({cpu / len(every):.0f} s a run). Made by "
        "`python -m benchmarks.learning.run` and `python -m benchmarks.learning.table`.",
        "",
        f"Budget of every run: {steps} steps of 32 prompts x 8 rollouts, temperature 1, AdamW 1e-3, warm-up 10, cosine "
        "to 0, clip 1, K=16 unless said. Same prompts and seeds for all methods. Greedy accuracy in percent on 500 "
        "held-out problems; in domain A the teacher is right, in domain B it holds a misconception and the student is "
        "mostly right (docs/decisions/010).",
        "",
        "## In the shape of the paper's Table 1",
        "",
        *main_table(runs, first, with_ranks=True),
    ]
    if ablation := [n for n in ("rg_opd_paper", *ABLATION) if n in runs]:
        lines += ["", "## In the shape of the paper's Table 2", "", *main_table(runs, ablation, with_ranks=False)]
        lines += ["", f"The first row is K=16 with the tail. The vocabulary has {102} ids."]
    if gated := [n for n in ("rg_opd_paper", "rg_opd_released") if n in runs]:
        lines += ["", "## What the gate kept", "", *gate_table(runs, gated)]
        lines += ["", '"0.40 of 10%": 40 % of these tokens were kept, and they are 10 % of all response tokens.']
    if why := [n for n in WHY if n in runs]:
        lines += ["", "## Remedies of decisions/022", "", *main_table(runs, why, with_ranks=False)]
    return "\n".join([*lines, "", "## In the shape of the paper's Figure 2", "", f"![curves]({figure})", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("benchmarks/learning/runs"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/learning"))
    args = parser.parse_args()
    runs = read(args.runs)
    if not runs:
        raise SystemExit(f"no finished run in {args.runs}")
    shown = [n for n in ("reverse_kl", "rg_opd_paper", "rg_opd_released") if n in runs]
    curves(runs, shown, args.out / "curves.png")
    text = report(runs, "curves.png")
    notes = args.out / "NOTES.md"
    (args.out / "RESULTS.md").write_text(text + (notes.read_text() if notes.exists() else ""))
    print(text)


if __name__ == "__main__":
    main()
