"""The run's own evaluations: when one is due, its row, the best student so far, and when to stop early. Rank 0."""

from __future__ import annotations

import logging
import time
from typing import Any

from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.records.journal import Journal
from rgopd.trainer.records.live import Live
from rgopd.trainer.rollouts.dispatch import Interrupted
from rgopd.trainer.rollouts.evaluation import BestTracker, keep_best
from rgopd.trainer.rollouts.orchestrator import Orchestrator
from rgopd.trainer.run.publish import Publisher

log = logging.getLogger(__name__)


class Validation:
    """Evaluates published versions on the held-out prompts.

    Args:
        config: the run's.
        prompts: `eval.dataset`; None: there is none, and every evaluation counts as made.
        orchestrator: asks samplers and verifier.
        publisher: knows the versions' folders.
        journal: where rows go; its earlier evaluations decide which version is the best so far.
        tokenizer, generation_config: kept beside the best student, which must load on its own.
        live: what is shown now.
    """

    def __init__(
        self,
        config: TrainConfig,
        prompts: PromptSource | None,
        orchestrator: Orchestrator,
        publisher: Publisher,
        journal: Journal,
        tokenizer: Any,
        generation_config: Any,
        live: Live | None = None,
    ) -> None:
        self.config = config
        self.prompts = prompts
        self.orchestrator = orchestrator
        self.publisher = publisher
        self.journal = journal
        self.tokenizer = tokenizer
        self.generation_config = generation_config
        self.live = live or Live(None)
        self.best = BestTracker(config.eval, journal.evaluations)
        self._evaluated = {int(row["step"]) for row in journal.evaluations}

    def catch_up(self, start: int) -> None:
        """The evaluation before the first step, or one that was due when an earlier life ended."""
        if not self.has_evaluated(start) and (start == 0 or self.is_due(start)):
            self.evaluate(start)

    def has_evaluated(self, version: int) -> bool:
        """Whether its row is in metrics.jsonl."""
        return version in self._evaluated

    def is_due(self, version: int) -> bool:
        """Whether `eval.every` asks for this version."""
        every = self.config.eval.every
        return bool(every) and version % every == 0

    def evaluate(self, version: int) -> bool:
        """Accuracy of a published version into metrics.jsonl; the best student so far is kept.

        False: asked to stop meanwhile; the resumed run makes up for it.
        """
        if self.prompts is None:
            return True
        started = time.monotonic()
        self.live.phase("evaluating")
        try:
            result = self.orchestrator.evaluate(self.prompts, version)
        except Interrupted:
            return False
        row = {"event": "eval", "step": version, **result}
        if self.best.update(row) and self.config.eval.keep_best:
            # Before the row: a life that ends between the two evaluates again, one that finds the row does not.
            policy = self.publisher.whole(version)
            keep_best(self.config.output_dir, policy, self.tokenizer, self.generation_config, row)
        self.journal.evaluation(row, time.monotonic() - started)
        self._evaluated.add(version)
        log.info("evaluation", extra={"accuracy": result["accuracy"], "version": version})
        return True

    def say_why_stopped(self, done: int) -> None:
        """A run that ends before its last step says so where its figures are."""
        metric, best, since = self.config.eval.best, self.best.best, self.best.best_step
        self.journal.early_stop(done, metric, best, since)
        log.warning("stopped early at step %d: no better %s since step %d", done, metric, since)
