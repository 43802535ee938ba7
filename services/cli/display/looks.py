"""How a snapshot looks: bars on a terminal, one line in a log."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rgopd.cli.display.snapshot import Snapshot, Stage, duration

NARROW = 60
"""Columns under which there is no room for bars."""


def table(snapshot: Snapshot, rates: Mapping[str, float], elapsed_s: float, width: int) -> RenderableType:
    """For a terminal of so many columns."""
    parts: list[RenderableType] = [Text(headline(snapshot, elapsed_s), style="bold", overflow="fold")]
    bars = Table.grid(padding=(0, 1))
    for stage in stages_of(snapshot):
        cells: list[RenderableType] = [stage.name, f"{stage.done}/{stage.of}", _pace(stage, rates.get(stage.name, 0.0))]
        if width >= NARROW:
            bar = ProgressBar(total=max(1, stage.of), completed=stage.done, width=min(40, width - 42))
            cells.insert(1, bar)
        bars.add_row(*cells)
    if bars.row_count:
        parts.append(bars)
    if snapshot.figures:
        parts.append(Text("  ".join(f"{name} {value}" for name, value in snapshot.figures), overflow="fold"))
    if snapshot.processes:
        parts.append(Text("  ".join(f"{name}: {state}" for name, state in snapshot.processes.items()), style="dim"))
    parts += [Text(f"! {warning}", style="yellow", overflow="fold") for warning in snapshot.warnings]
    return Group(*parts)


def line(snapshot: Snapshot, rates: Mapping[str, float], elapsed_s: float) -> str:
    """For a log."""
    parts = [headline(snapshot, elapsed_s)]
    busy = [f"{s.name} {s.done}/{s.of}" for s in snapshot.stages if s.of]
    parts += ["  ".join(busy)] if busy else []
    parts += ["  ".join(f"{name} {value}" for name, value in snapshot.figures)] if snapshot.figures else []
    starting = [f"{name}: {state}" for name, state in snapshot.processes.items()]
    parts += ["  ".join(starting)] if starting else []
    return " | ".join(parts)


def headline(snapshot: Snapshot, elapsed_s: float) -> str:
    """Where it is, for how long, and how much is left."""
    words = [snapshot.phase]
    if snapshot.steps:
        words.insert(0, f"step {min(snapshot.step + 1, snapshot.steps)}/{snapshot.steps}")
    words.append(f"{duration(elapsed_s)} so far")
    if snapshot.seconds is not None:
        words.append(f"{snapshot.seconds:.1f} s/step")
    if snapshot.left_s is not None:
        words.append(f"{duration(snapshot.left_s)} left")
    return "  ".join(words)


def stages_of(snapshot: Snapshot) -> list[Stage]:
    """The steps themselves, then what the step in work is at."""
    steps = [Stage("steps", snapshot.step, snapshot.steps)] if snapshot.steps else []
    return [*steps, *snapshot.stages]


def _pace(stage: Stage, rate: float) -> str:
    if stage.name == "steps" or rate <= 0:
        return ""
    left = (stage.of - stage.done) / rate
    pace = f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"
    return f"{pace}, {duration(left)} left" if stage.done < stage.of else pace
