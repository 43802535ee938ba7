"""`rgopd export`: a run's student as a Hugging Face folder with a model card."""

from __future__ import annotations

from pathlib import Path

from rgopd.cli.report import write_report
from rgopd.trainer.run.export import Run, export


def run_export(run: Path, output: Path, which: str, dtype: str) -> int:
    """The command; returns an exit code."""
    figure = None
    if Run.read(run).steps:
        write_report(run)
        figure = run / "report.png"
    print(export(run, output, which=which, dtype=dtype, figure=figure))  # noqa: T201 - the path is the answer
    return 0
