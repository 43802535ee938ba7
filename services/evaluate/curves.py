"""Curves of several runs in one figure: the paper's Figure 2, and reward, verdicts and what was kept by sign."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rgopd.common.errors import ConfigError
from rgopd.trainer.records.metrics import read_json_lines

Axis = Literal["steps", "tokens", "seconds"]
Step = Mapping[str, Any]
AXES = {"steps": "step", "tokens": "response tokens trained on", "seconds": "seconds"}

PANELS: tuple[tuple[str, Callable[[Step], float | None]], ...] = (
    ("Kept token fraction", lambda s: s.get("kept_fraction")),
    ("Mean response length (tokens)", lambda s: s.get("response_length_mean")),
    ("Loss (nats a token)", lambda s: s.get("loss")),
    ("Reward", lambda s: s.get("reward_mean")),
    ("Verdicts: failed (share)", lambda s: _share(s, "failed")),
    ("Verdicts: error (share)", lambda s: _share(s, "error")),
    ("Kept where the advantage is positive", lambda s: s.get("kept_fraction_positive")),
    ("Kept where it is zero", lambda s: s.get("kept_fraction_zero")),
    ("Kept where it is negative", lambda s: s.get("kept_fraction_negative")),
)
"""Title and value of a step; the first three are Figure 2's."""

COLOURS = ("#1f5fa8", "#c2410c", "#2e7d32", "#7b3fa0", "#8a6d00", "#00838f", "#ad1457", "#4e4e4e")
DASHES = ("-", "--", "-.", ":")


def _share(step: Step, verdict: str) -> float | None:
    counts = step.get("verdicts") or {}
    total = sum(counts.values())
    return counts.get(verdict, 0) / total if total else None


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run, with `seconds` from timings.jsonl where it has them.

    Raises:
        ConfigError: no step yet.
    """
    steps = [row for row in read_json_lines(folder / "metrics.jsonl") if row["event"] == "step"]
    if not steps:
        raise ConfigError(f"{folder / 'metrics.jsonl'} has no step yet")
    clock = folder / "timings.jsonl"
    rows = [r for r in read_json_lines(clock) if r["event"] == "step"] if clock.exists() else []
    took = {r["step"]: sum(float(r.get(k, 0.0)) for k in ("collect_s", "train_s", "publish_s")) for r in rows}
    for step in steps:
        step["seconds"] = took.get(step["step"])
    return steps


def positions(steps: Sequence[Step], axis: Axis, folder: Path) -> list[float]:
    """Where each step lies on the axis, at its end.

    Raises:
        ConfigError: seconds, and the run has no timings.
    """
    if axis == "steps":
        return [float(s["step"]) + 1 for s in steps]
    key = "response_tokens" if axis == "tokens" else "seconds"
    values = [s.get(key) for s in steps]
    if any(v is None for v in values):
        raise ConfigError(f"{folder} does not tell {key} of every step; --x steps works for every run")
    return list(itertools.accumulate(float(v) for v in values if v is not None))


def draw(runs: Sequence[tuple[str, Path]], target: Path, axis: Axis = "steps") -> Path:
    """Write `target` (PNG) and the same as SVG; thin each step, thick the mean of the last five."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(3, 3, figsize=(15, 10))
    for number, (name, folder) in enumerate(runs):
        steps = read_steps(folder)
        x = positions(steps, axis, folder)
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
        for panel, (_, value) in zip(grid.flat, PANELS, strict=True):
            points = [(at, float(y)) for at, step in zip(x, steps, strict=True) if (y := value(step)) is not None]
            if points:
                at, ys = [p[0] for p in points], [p[1] for p in points]
                panel.plot(at, ys, linewidth=0.8, alpha=0.25, color=style["color"])
                panel.plot(at, _running_mean(ys), linewidth=1.8, label=name, **style)
    for panel, (title, _) in zip(grid.flat, PANELS, strict=True):
        panel.set_title(title, fontsize=11)
        panel.set_xlabel(AXES[axis])
        panel.grid(alpha=0.3)
    handles = {name: line for panel in grid.flat for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0.03 + 0.02 * (len(runs) // 4 + 1), 1, 1))
    figure.savefig(target, dpi=110)
    figure.savefig(target.with_suffix(".svg"))
    pyplot.close(figure)
    return target


def _running_mean(values: list[float], width: int = 5) -> list[float]:
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - width) : i + 1])]
