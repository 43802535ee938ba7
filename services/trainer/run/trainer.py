"""The loop of a run, on every rank: gather, train, publish, write down, save."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from rgopd.common.identity import derive_seed
from rgopd.common.telemetry import log_context
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.records.journal import Clock
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.run.collective import broadcast_bytes
from rgopd.trainer.run.gather import Gather
from rgopd.trainer.run.lead import Lead
from rgopd.trainer.run.publish import Publisher
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.run.watch import Watch
from rgopd.trainer.student.model import published, save_pretrained

log = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One rank of a run; `compose` builds it. `saved`: the step that the newest checkpoint goes on from."""

    config: TrainConfig
    start: int
    total_steps: int
    tokenizer: Any
    train_step: TrainStep
    gather: Gather
    publisher: Publisher
    checkpoints: Checkpoints
    lead: Lead | None
    """Rank 0's; None on the others."""
    saved: int
    watch: Watch
    """What people are shown of it."""

    def run(self) -> bool:
        """Train to the end, or until asked to stop (False); resumable at any checkpoint."""
        self.watch.begin(self.start, self.total_steps)
        self.publisher.publish(self.train_step.student, self.start)
        if self.lead is not None:
            self.lead.validation.catch_up(self.start)
        done, paused = self.start, False
        while done < self.total_steps and not self._stops_early():
            with log_context(step=done):
                paused = not self._one_step(done)
            if paused:
                break
            done += 1
        self._save(done)
        self.checkpoints.settle(wait=True)
        self.publisher.settle()
        finished = not paused and self._finish(done)
        if self.lead is not None:
            if not finished:
                log.info("paused at step %d as asked; the same command goes on from here", done)
            self.lead.close()
        self.watch.end(done, finished)
        dist.barrier()
        return finished

    def _one_step(self, step: int) -> bool:
        """Take a step; False when asked to stop before it: nothing was changed."""
        started = time.monotonic()
        # Random numbers belong to the step, not to the process: a resumed step draws the same ones.
        torch.manual_seed(derive_seed(self.config.seed, "step", step, dist.get_rank()))
        gathered = self.gather.step(step)
        if gathered is None:
            return False
        plan, micro_batches = gathered
        collected = time.monotonic()
        view = self.watch.step(plan, len(micro_batches))
        unscored = float(plan.metrics["unscored_tokens"])
        on_policy = step == self.start and (step == 0 or not self.config.max_staleness)
        metrics = self.train_step.run(micro_batches, view.note, unscored_tokens=unscored, on_policy=on_policy)
        trained = time.monotonic()
        self.watch.live.phase("publishing")
        self.publisher.publish(self.train_step.student, step + 1)
        published = time.monotonic()
        self.watch.live.set(policy_version=step + 1)
        view.close(None if self.lead is None else self.lead.orchestrator.observed)
        if self.lead is not None:
            waited, device = self.lead.progress.restart(), self.watch.live.gpu_bytes()
            self.lead.after_step(
                plan, metrics, Clock(started, collected, trained, published, waited, view.seconds, device)
            )
        self.checkpoints.settle()
        if (step + 1) % self.config.checkpoint.every == 0 or step + 1 == self.total_steps:
            self._save(step + 1)
        return True

    def _stops_early(self) -> bool:
        """Collective where eval.patience is set: rank 0 has seen the evaluations."""
        if not self.config.eval.patience:
            return False
        best = None if self.lead is None else self.lead.validation.best
        return broadcast_bytes(None if best is None else str(int(best.exhausted)).encode()) == b"1"

    def _save(self, step: int) -> None:
        """Collective. A checkpoint whose next step is `step`, unless there is one."""
        if step == self.saved:
            return
        self.saved = step
        self.watch.live.phase("saving")
        if self.lead is not None:
            self.lead.journal.sync()
        state = {"run_id": self.config.run_id, "seed": self.config.seed}
        runner = self.train_step
        self.checkpoints.save(step, runner.student, runner.optimizer, runner.scheduler, state)

    def _finish(self, done: int) -> bool:
        """Collective. The last evaluation and the student to hand out; False when asked to stop meanwhile."""
        student = self.train_step.student
        finished = self.lead is None or self.lead.finish(done)
        weights = published(student, self.config.dtype)
        if self.lead is None or not finished:
            for _ in weights.tensors:  # takes part in the gathering
                pass
            return finished
        save_pretrained(self.config.output_dir / "student", student, weights, self.tokenizer)
        self.publisher.close()
        return True
