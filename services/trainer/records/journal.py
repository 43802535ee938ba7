"""What rank 0 writes down of a run: rows of steps and evaluations, their times, the ledger, the state in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.records.ledger import Ledger
from rgopd.trainer.records.metrics import JsonLines, RunState, read_json_lines
from rgopd.trainer.records.monitors import Monitor, Monitors


@dataclass(frozen=True)
class Clock:
    """When a step's stages ended, in seconds of the monotonic clock."""

    started: float
    collected: float
    trained: float
    published: float


class Journal:
    """The files of one life of a run; what an earlier life wrote of steps that are made again is cut off.

    Args:
        folder: the run folder: metrics.jsonl, timings.jsonl, ledger.jsonl.
        start: the step that this life starts with.
        others: who sees every row besides.
        state: the run's state in Redis.
    """

    def __init__(self, folder: Path, start: int, others: Monitor, state: RunState) -> None:
        self._rows = JsonLines(
            folder / "metrics.jsonl", lambda r: r["step"] < start or (r["event"] == "eval" and 0 < r["step"] == start)
        )
        self._metrics = Monitors([self._rows, others])
        self.evaluations = [row for row in read_json_lines(self._rows.path) if row["event"] == "eval"]
        """Rows of earlier lives that stay."""
        self._timings = Monitors([JsonLines(folder / "timings.jsonl", lambda r: r["step"] < start), others])
        self._ledger = Ledger(folder, start)
        self._state = state

    def step(
        self, plan: StepPlan, metrics: Mapping[str, float], recent: list[dict[str, Any]], clock: Clock
    ) -> dict[str, Any]:
        """A step that was taken. Returns its row of metrics.jsonl."""
        row = {"event": "step", "step": plan.step, "policy_version": plan.step, **plan.metrics, **metrics}
        self._metrics.write(row)
        seconds = clock.published - clock.started
        self._timings.write(
            {
                "event": "step",
                "step": plan.step,
                "seconds": seconds,
                "collect_s": clock.collected - clock.started,
                "train_s": clock.trained - clock.collected,
                "publish_s": clock.published - clock.trained,
                "tokens_per_s": (metrics["response_tokens"] + float(plan.metrics["unscored_tokens"])) / seconds,
            }
        )
        self._ledger.write(plan)
        self._state.publish(row)
        self._state.add_recent(recent)
        return row

    def evaluation(self, row: Mapping[str, Any], seconds: float) -> None:
        """An evaluation: `row` has `event` and `step`."""
        self._metrics.write(row)
        self._timings.write({"event": "eval", "step": row["step"], "seconds": seconds})

    def early_stop(self, step: int, metric: str, best: float | None, best_step: int) -> None:
        """The run ended at `step`, before its last one."""
        self._metrics.write(
            {"event": "early_stop", "step": step, "metric": metric, "best": best, "best_step": best_step}
        )

    def sync(self) -> None:
        """To the disk: a checkpoint is about to say that all this was done."""
        self._rows.sync()
        self._ledger.sync()

    def close(self) -> None:
        """Flush and close the files; the other monitors once."""
        self._metrics.close()
        self._timings.close()
        self._ledger.close()
