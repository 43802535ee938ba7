"""What people are shown of a run, on every rank: progress while a step trains, and a sample of its rollouts after it.

Nothing here takes part in a collective, and what takes long is left to two threads (`Live`, `Keeper`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from rgopd.common.open_run import open_run
from rgopd.common.run_files import Vocabulary
from rgopd.common.token_bytes import vocabulary_of
from rgopd.trainer.batch.micro_batch import MicroBatch
from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.objectives.base import Objective
from rgopd.trainer.objectives.step import HeadLoss
from rgopd.trainer.records.keeper import Keeper
from rgopd.trainer.records.live import Live
from rgopd.trainer.records.metrics import RunState
from rgopd.trainer.rollouts.observed import Observed
from rgopd.trainer.run.figures import Figures

RECENT = 4
"""Rollouts of a step that go to Redis whole."""


class Watch:
    """One a rank.

    Args:
        start: the step that this life starts with.
        live: writes the status; of the other ranks it writes nothing.
    """

    def __init__(self, config: TrainConfig, objective: Objective, tokenizer: Any, start: int, live: Live) -> None:
        self.config = config
        self.objective = objective
        self.live = live
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        keep = config.watch.keep
        self.keeper = Keeper(config.output_dir, self.rank, self.ranks, start, keep, lambda: vocabulary_of(tokenizer))
        self.state: RunState | None = None
        if self.rank == 0:
            # Connections of its own, which do not wait for a server that is away: the status must not grow old.
            self.state = RunState(open_run(config.redis_url, config.run_id, wait_s=10.0, patience_s=0.0))
            live.hear = self.state.hear
        if torch.cuda.is_available():
            live.gpu_bytes = torch.cuda.max_memory_allocated

    def begin(self, start: int, steps: int) -> None:
        """Everything is loaded."""
        kind, text = ("resumed", f"goes on at step {start}") if start else ("started", "step 0")
        self.live.phase("publishing", step=start, steps=steps, policy_version=start)
        self.live.event(kind, f"{text} of {steps}, {self.ranks} ranks", step=start, ranks=self.ranks)

    def step(self, plan: StepPlan, micro_batches: int) -> StepView:
        """What is seen of one step."""
        return StepView(self, plan, micro_batches)

    def end(self, done: int, finished: bool) -> None:
        """The run is done, or pauses."""
        self.keeper.close()
        self.live.set(step=done)
        text = f"all {done} steps are done" if finished else f"paused before step {done}; the same command goes on"
        self.live.end("finished" if finished else "paused", text)


class StepView:
    """One step on this rank: `note` during it, `close` after it. `seconds`: what both cost the loop."""

    def __init__(self, watch: Watch, plan: StepPlan, micro_batches: int) -> None:
        self.watch = watch
        self.plan = plan
        self.seconds = 0.0
        mine = [rollout for micro in plan.micro_batches[watch.rank] for rollout in micro]
        self.figures = Figures(plan.watched, mine, watch.rank, watch.objective, watch.config.watch.keep)
        self.done, self.of = 0, micro_batches
        watch.live.phase("training")
        watch.live.stages(training=(0, micro_batches))

    def note(self, micro: MicroBatch, result: HeadLoss) -> None:
        """After each micro-batch that holds anything."""
        started = time.perf_counter()
        self.figures.note(micro, result)
        self.done += 1
        self.watch.live.stages(training=(self.done, self.of))
        self.seconds += time.perf_counter() - started

    def close(self, observed: Observed | None) -> None:
        """Hand everything to the thread that writes. `observed`: rank 0's."""
        started = time.perf_counter()
        watch, plan = self.watch, self.plan
        found = self.figures.arrays()
        told = None if observed is None else observed.take(plan.step, watch.ranks, plan.metrics)
        recent: list[dict[str, Any]] = []

        def rows() -> list[dict[str, Any]]:
            mine = self.figures.rows(found)
            if told is None:
                return [{"kind": "step", "format": 1, "step": plan.step, "rank": watch.rank}, *mine]
            recent.extend(_recent(plan, found[:RECENT], watch.keeper.vocabulary))
            return [*told(watch.keeper.text), *mine]

        if found or told is not None:
            watch.keeper.submit(plan.step, rows, self._tell(recent))
        self.seconds += time.perf_counter() - started

    def _tell(self, recent: list[dict[str, Any]]) -> Callable[[], None] | None:
        state = self.watch.state
        return None if state is None else lambda: state.add_recent(recent)


def _recent(plan: StepPlan, found: list[Any], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    plans = {p.rollout_id: p for rank in plan.micro_batches for micro in rank for p in micro}
    rows = []
    for item, arrays, _ in found:
        if "teacher" not in arrays:
            continue
        gap_T = arrays["teacher"] - arrays["student"]
        rows.append(
            {
                "rollout_id": item,
                "step": plan.step,
                "reward": plans[item].reward,
                "advantage": plans[item].advantage,
                "kept": arrays["keep"].astype(int).tolist(),
                "tokens": [vocabulary.label(token_id) for token_id in arrays["sampled_ids"].tolist()],
                "teacher_minus_student": [round(gap, 4) for gap in gap_T.tolist()],
            }
        )
    return rows
