"""What only rank 0 does: it asks for rollouts, waits for them, evaluates and keeps the books."""

from __future__ import annotations

import logging

from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.records.journal import Clock, Journal
from rgopd.trainer.records.live import Live
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.orchestrator import Orchestrator
from rgopd.trainer.rollouts.progress import Progress
from rgopd.trainer.run.publish import Publisher
from rgopd.trainer.run.validation import Validation

log = logging.getLogger(__name__)


class Lead:
    """Rank 0's part of every step.

    Args:
        config: the run's.
        start, total_steps: the step that this life starts with, and that at which the run is done.
        claim: the hold on the run, already taken.
        orchestrator, publisher, validation, journal: who does it.
        live: what is shown now.
    """

    def __init__(
        self,
        config: TrainConfig,
        start: int,
        total_steps: int,
        claim: Claim,
        orchestrator: Orchestrator,
        publisher: Publisher,
        validation: Validation,
        journal: Journal,
        live: Live,
    ) -> None:
        self.config = config
        self.start = start
        self.total_steps = total_steps
        self.claim = claim
        self.orchestrator = orchestrator
        self.publisher = publisher
        self.validation = validation
        self.journal = journal
        self.live = live
        self.progress = Progress(lambda counts: live.stages(**counts))
        orchestrator.join.progress = self.progress

    def collect(self, step: int) -> StepPlan:
        """Ask for this step's rollouts and, within max_staleness, for later ones; wait for this step's.

        Raises:
            Interrupted: asked to stop meanwhile.
        """
        self.live.phase("collecting", step=step)
        self.progress.restart()
        for ahead in range(step, min(step + self.config.max_staleness, self.total_steps - 1) + 1):
            self.orchestrator.request(ahead, self._policy_for(ahead))
        plan = self.orchestrator.collect(step)
        if self.config.colocated:
            self.orchestrator.wait_for_idle_samplers()
        return plan

    def _policy_for(self, step: int) -> int:
        """Which weights sample a step's rollouts: those that were the newest when an undisturbed run would have asked.

        Not those that are the newest now: a resumed run must ask for what it asked for before.
        """
        version = max(0, step - self.config.max_staleness)
        if version < self.start and not self.publisher.folder_of(version).exists():
            log.warning("policy %d is not in the run folder: step %d is sampled by %d", version, step, self.start)
            return self.start
        return version

    def after_step(self, plan: StepPlan, metrics: dict[str, float], clock: Clock) -> None:
        """Write the step down, free its blobs, evaluate where due."""
        row = self.journal.step(plan, metrics, clock)
        self.orchestrator.release(plan.step)
        log.info("step", extra={k: row[k] for k in ("loss", "kept_fraction", "reward_mean", "response_length_mean")})
        if self.validation.is_due(plan.step + 1):
            self.validation.evaluate(plan.step + 1)

    def finish(self, done: int) -> bool:
        """The last evaluation, unless it was made; False when asked to stop meanwhile."""
        if not (self.validation.has_evaluated(done) or self.validation.evaluate(done)):
            return False
        if done < self.total_steps:
            self.validation.say_why_stopped(done)
        if self.claim.streams.blobs.outside:  # what a late twin stored; Redis forgets it by itself
            self.claim.streams.blobs.purge()
        return True

    def close(self) -> None:
        """Flush the files and let the next trainer in."""
        self.journal.close()
        self.claim.release()
