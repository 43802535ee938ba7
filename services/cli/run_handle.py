"""A run that `rgopd.distill` started: live metrics, the end of it, the student, plots in a notebook."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rgopd.cli.processes import Child
from rgopd.common import fleeting
from rgopd.common.children import PAUSED
from rgopd.common.errors import RgopdError
from rgopd.trainer.records.metrics import read_json_lines

CURVES = (("loss", "loss"), ("kept_fraction", "kept fraction"), ("reward_mean", "reward"))


class RunFailed(RgopdError):
    """The run ended before its last step; the text holds why."""

    kind = "run_failed"


class Run:
    """A handle on the processes and the folder of a run. The run ends when this Python process does.

    Attributes:
        folder: the run's folder (docs/runs.md).
    """

    def __init__(self, folder: Path, child: Child) -> None:
        self.folder = folder
        self._child = child
        self._stopped = False

    @property
    def student(self) -> Path:
        """Where the distilled student is once the run is finished: a Hugging Face folder."""
        return self.folder / "student"

    @property
    def running(self) -> bool:
        """Whether its processes still work."""
        return self._child.poll() is None

    @property
    def status(self) -> str:
        """starting, running, finished, stopped or failed."""
        code = self._child.poll()
        if code is None:
            return "running" if self._rows("step") else "starting"
        if code == 0:
            return "finished"
        return "stopped" if self._stopped or code in (130, 143, PAUSED) else "failed"

    @property
    def url(self) -> str | None:
        """The live page (`rgopd watch`), once it is served."""
        text = fleeting.text(self._child.out)
        words = [word.strip(".,)") for line in text.splitlines() if "page" in line.lower() for word in line.split()]
        return next((word for word in words if word.startswith("http")), None)

    def metrics(self, *, follow: bool = True, every_s: float = 0.5) -> Iterator[dict[str, Any]]:
        """Rows of metrics.jsonl (`event`: step, eval, ...), those there are and then each as it is written.

        Raises:
            RunFailed: after the last row, where the run failed.
        """
        seen = 0
        while True:
            over = not self.running
            rows = self._rows()
            yield from rows[seen:]
            seen = max(seen, len(rows))
            if not follow:
                return
            if over:
                self._raise_if_failed()
                return
            time.sleep(every_s)

    def wait(self, timeout_s: float | None = None) -> Run:
        """Until it is over.

        Raises:
            RunFailed: it failed. TimeoutError: it still works after `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.running:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"the run in {self.folder} still works after {timeout_s:g} s")
            time.sleep(0.2)
        self._raise_if_failed()
        return self

    def stop(self) -> None:
        """End it after the step that is under way, with a checkpoint; distill(output_dir=folder, ...) goes on."""
        if self.running:
            self._stopped = True
            self._child.stop()

    def report(self) -> Path:
        """Write report.html into the folder; returns its path."""
        from rgopd.cli.report import write_report

        return write_report(self.folder)

    def plot(self) -> Any:
        """A matplotlib figure of loss, kept fraction and reward so far."""
        from rgopd.cli.figure import ShownFigure

        steps = self._rows("step")
        figure = ShownFigure(figsize=(10, 2.6), layout="constrained")
        for axis, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
            axis.plot([row["step"] for row in steps], [row[key] for row in steps], color="#1f5fa8", linewidth=1.5)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
        return figure

    def __repr__(self) -> str:
        return f"<rgopd.Run {self.folder.name}: {self._line()}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: where it stands, and the curves so far."""
        head = f"<b>{html.escape(self.folder.name)}</b>: {html.escape(self._line())}<br>"
        if not self._rows("step"):
            return f"<div>{head}</div>"
        data = base64.b64encode(self.plot()._repr_png_()).decode()
        return f"<div>{head}<img alt='loss, kept fraction and reward by step' src='data:image/png;base64,{data}'></div>"

    def _line(self) -> str:
        steps, evals = self._rows("step"), self._rows("eval")
        told = [self.status, f"{len(steps)} steps"]
        if steps:
            told += [f"loss {steps[-1]['loss']:.4f}", f"kept {steps[-1]['kept_fraction']:.2f}"]
            told.append(f"reward {steps[-1]['reward_mean']:.2f}")
        if evals:
            told.append(
                "accuracy " + " → ".join(f"{row['accuracy']:.1%}" for row in {0: evals[0], 1: evals[-1]}.values())
            )
        return ", ".join(told)

    def _rows(self, event: str = "") -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        rows: list[dict[str, Any]] = fleeting.seen(lambda: read_json_lines(path), [])
        return [row for row in rows if not event or row["event"] == event]

    def _raise_if_failed(self) -> None:
        if self.status == "failed":
            said = fleeting.text(self._child.err).strip()
            why = said.rpartition("rgopd: ")[2] or "its logs do not say why"
            raise RunFailed(f"{why}\n(logs: {self.folder / 'logs'})")
