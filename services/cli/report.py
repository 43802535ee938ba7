"""report.html and report.png of a run: its page in one file, with the paper's Figure 2 and a before/after table."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from rgopd.common.errors import ConfigError
from rgopd.trainer.records.metrics import read_json_lines
from rgopd.watch.export import page_of
from rgopd.watch.run import Run

CURVES = (
    ("kept_fraction", "Kept token fraction"),
    ("response_length_mean", "Mean response length (tokens)"),
    ("loss", "Gated reverse KL (nats a token)"),
)


def read_run(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Steps, evaluations and resolved config of a run.

    Raises:
        ConfigError: the folder is no run, or has no step yet.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        raise ConfigError(f"{folder} has no metrics.jsonl: name the folder of a run, e.g. runs/demo-...")
    rows = read_json_lines(path)
    steps = [r for r in rows if r["event"] == "step"]
    if not steps:
        raise ConfigError(f"{path} has no step yet")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return steps, [r for r in rows if r["event"] == "eval"], config


def write_report(folder: Path) -> Path:
    """Write both files; returns the path of report.html: the page of `rgopd watch` with this run inside it."""
    steps, evals, config = read_run(folder)
    png = folder / "report.png"
    _plot(steps, png)
    objective, student = config.get("objective") or {}, Path(str(config.get("student", "")))
    summary = [
        f"<h2>{html.escape(folder.name)}</h2>",
        f"<p>{len(steps)} steps, objective <b>{html.escape(str(objective.get('name')))}</b>, "
        f"student <code>{html.escape(student.name)}</code>, seed {html.escape(str(config.get('seed')))}.</p>",
        "<h3>Training dynamics (the paper's Figure 2)</h3>",
        f"<img alt='kept fraction, response length and loss by step' src='data:image/png;base64,{_encoded(png)}'>",
        "<p>Thin: each step. Thick: the mean of the last five.</p>",
        "<h3>Greedy accuracy on held-out problems</h3>",
        _eval_table(evals),
        "<h3>What the gate kept</h3>",
        _gate_table(steps),
        "<h3>Configuration</h3>",
        f"<pre tabindex='0'>{html.escape((folder / 'config.yaml').read_text())}</pre>",
    ]
    target = folder / "report.html"
    target.write_text(page_of(Run(folder, folder.name), "\n".join(summary)), encoding="utf-8")
    return target


def accuracy_rows(evals: list[dict[str, Any]]) -> list[tuple[str, int, float, float]]:
    """(domain, problems, accuracy before, accuracy after), the total first. Needs two evaluations."""
    if len(evals) < 2:
        return []
    before, after = evals[0], evals[-1]
    rows = [("all", int(after["problems"]), float(before["accuracy"]), float(after["accuracy"]))]
    for domain, result in after["by_domain"].items():
        if earlier := before["by_domain"].get(domain):
            rows.append((domain, int(result["problems"]), float(earlier["accuracy"]), float(result["accuracy"])))
    return rows


def summary_table(folder: Path) -> Table:
    """The before/after table for a terminal."""
    _, evals, _ = read_run(folder)
    table = Table("domain", title="Greedy accuracy on held-out problems")
    for name in ("problems", "before", "after", "change"):
        table.add_column(name, justify="right")
    for domain, problems, before, after in accuracy_rows(evals):
        table.add_row(domain, str(problems), f"{before:.1%}", f"{after:.1%}", f"{100 * (after - before):+.1f}")
    return table


def _plot(steps: list[dict[str, Any]], target: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(13, 3.6))
    x = [row["step"] for row in steps]
    for axis, (key, title) in zip(axes, CURVES, strict=True):
        values = [row[key] for row in steps]
        axis.plot(x, values, color="#1f5fa8", linewidth=1, alpha=0.35)
        axis.plot(x, running_mean(values), color="#1f5fa8", linewidth=2)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0, 1.02)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    pyplot.close(figure)


def running_mean(values: list[float], width: int = 5) -> list[float]:
    """Mean of up to `width` values ending at each one: a step's prompts differ from the next one's."""
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - width) : i + 1])]


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _eval_table(evals: list[dict[str, Any]]) -> str:
    rows = accuracy_rows(evals)
    if not rows:
        return "<p>No evaluation before and after: set eval.dataset.</p>"
    cells = "".join(
        f"<tr><td>{html.escape(d)}</td><td>{n}</td><td>{b:.1%}</td><td>{a:.1%}</td><td>{100 * (a - b):+.1f}</td></tr>"
        for d, n, b, a in rows
    )
    head = "<tr><th>domain</th><th>problems</th><th>before</th><th>after</th><th>points</th></tr>"
    return f"<table>{head}{cells}</table>"


def _gate_table(steps: list[dict[str, Any]]) -> str:
    head = "<tr><th>sign of the advantage</th><th>tokens</th><th>kept</th><th>teacher above student</th></tr>"
    cells = ""
    for sign in ("positive", "zero", "negative"):
        tokens = sum(r[f"tokens_{sign}"] for r in steps)
        kept = sum(r[f"kept_fraction_{sign}"] * r[f"tokens_{sign}"] for r in steps)
        above = sum(r[f"teacher_above_{sign}"] * r[f"tokens_{sign}"] for r in steps)
        share = max(1.0, tokens)
        cells += f"<tr><td>{sign}</td><td>{tokens:.0f}</td><td>{kept / share:.1%}</td><td>{above / share:.1%}</td></tr>"
    return f"<table>{head}{cells}</table>"
