"""What rank 0 writes down of a run: rows of steps and evaluations, their times, the ledger, the state in Redis."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.records.ledger import Ledger
from rgopd.trainer.records.live import Live, rss_bytes
from rgopd.trainer.records.metrics import JsonLines, RunState, read_json_lines
from rgopd.trainer.records.monitors import Monitor, Monitors


@dataclass(frozen=True)
class Clock:
    """When a step's stages ended, in seconds of the monotonic clock."""

    started: float
    collected: float
    trained: float
    published: float
    waited: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the collection that went to waiting for a stage: sampling, verifying, scoring."""
    watched: float = 0.0
    """Seconds spent on what people look at (docs/run-folder.md)."""
    gpu_bytes: int = 0


class Journal:
    """The files of one life of a run; what an earlier life wrote of steps that are made again is cut off.

    Args:
        folder: the run folder: metrics.jsonl, timings.jsonl, ledger.jsonl.
        start: the step that this life starts with.
        others: who sees every row besides.
        state: the run's state in Redis.
        live: what is shown now; warnings come from the rows.
    """

    def __init__(self, folder: Path, start: int, others: Monitor, state: RunState, live: Live | None = None) -> None:
        self._rows = JsonLines(
            folder / "metrics.jsonl", lambda r: r["step"] < start or (r["event"] == "eval" and 0 < r["step"] == start)
        )
        self._metrics = Monitors([self._rows, others])
        earlier = read_json_lines(self._rows.path)
        self.evaluations = [row for row in earlier if row["event"] == "eval"]
        """Rows of earlier lives that stay."""
        self._timings = Monitors([JsonLines(folder / "timings.jsonl", lambda r: r["step"] < start), others])
        self._ledger = Ledger(folder, start)
        self._state = state
        self._state.restart_rows(earlier)
        self._live = live or Live(None)
        for row in earlier:
            self._live.history.add(row)

    def step(self, plan: StepPlan, metrics: Mapping[str, float], clock: Clock) -> dict[str, Any]:
        """A step that was taken. Returns its row of metrics.jsonl."""
        row = {"event": "step", "step": plan.step, "policy_version": plan.step, **plan.metrics, **metrics}
        self._write(row)
        seconds = clock.published - clock.started
        timing = {
            "event": "step",
            "step": plan.step,
            "time": round(time.time(), 3),
            "seconds": seconds,
            "collect_s": clock.collected - clock.started,
            **{f"{stage}_s": waited for stage, waited in clock.waited.items()},
            "train_s": clock.trained - clock.collected,
            "publish_s": clock.published - clock.trained,
            "watch_s": clock.watched,
            "tokens_per_s": (metrics["response_tokens"] + float(plan.metrics["unscored_tokens"])) / seconds,
            "rss_bytes": rss_bytes(),
            "gpu_bytes": clock.gpu_bytes,
        }
        self._timings.write(timing)
        self._ledger.write(plan)
        depths = self._state.publish(row)
        if self._live.metrics is not None:
            self._live.metrics.queues(depths)
        self._live.timing(timing)
        return row

    def evaluation(self, row: Mapping[str, Any], seconds: float) -> None:
        """An evaluation: `row` has `event` and `step`."""
        self._write(row)
        timing = {"event": "eval", "step": row["step"], "time": round(time.time(), 3), "seconds": seconds}
        self._timings.write(timing)
        text = f"policy {row['step']}: accuracy {row['accuracy']:.1%} of {row['problems']} problems"
        self._live.event("evaluated", text, step=row["step"], accuracy=row["accuracy"], seconds=round(seconds, 3))

    def early_stop(self, step: int, metric: str, best: float | None, best_step: int) -> None:
        """The run ended at `step`, before its last one."""
        self._write({"event": "early_stop", "step": step, "metric": metric, "best": best, "best_step": best_step})

    def _write(self, row: Mapping[str, Any]) -> None:
        self._metrics.write(row)
        self._state.add_row(row)
        self._live.row(row)

    def sync(self) -> None:
        """To the disk: a checkpoint is about to say that all this was done."""
        self._rows.sync()
        self._ledger.sync()

    def close(self) -> None:
        """Flush and close the files; the other monitors once."""
        self._metrics.close()
        self._timings.close()
        self._ledger.close()
