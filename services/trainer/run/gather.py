"""From rank 0's plan to every rank's tensors. All ranks agree that they can use them before any trains."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch.distributed as dist

from rgopd.common.errors import RgopdError, Unavailable
from rgopd.common.streams import Streams
from rgopd.trainer.batch.micro_batch import BatchOptions, MicroBatch, load_micro_batch
from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.batch.stored import Vanished, why_vanished
from rgopd.trainer.rollouts.dispatch import Interrupted
from rgopd.trainer.rollouts.orchestrator import MAX_VANISHED
from rgopd.trainer.run.collective import agree, broadcast_bytes
from rgopd.trainer.run.lead import Lead

log = logging.getLogger(__name__)

_GOOD, _STOP, _GONE, _BAD = range(4)
_STOP_WORD = b"stop"


class Gather:
    """Gets a step's rollouts to this rank. Collective.

    Args:
        streams: the run's.
        options: what is read of each rollout.
        should_stop: whether this process was asked to stop.
        lead: rank 0's; None on the others.
    """

    def __init__(
        self, streams: Streams, options: BatchOptions, should_stop: Callable[[], bool], lead: Lead | None
    ) -> None:
        self.streams = streams
        self.options = options
        self.should_stop = should_stop
        self.lead = lead

    def step(self, step: int) -> tuple[StepPlan, list[MicroBatch]] | None:
        """The plan and this rank's tensors; None when any rank was asked to stop: nothing was changed.

        Raises:
            Unavailable: results keep vanishing from their store, or another rank found something it cannot use.
            InvalidInput: what this rank found, e.g. NaN among the teacher's log-probs.
        """
        rank = dist.get_rank()
        for _ in range(MAX_VANISHED):
            plan = self._plan(step)
            if plan is None:
                return None
            micro_batches: list[MicroBatch] = []
            problem: RgopdError | None = None
            try:
                micro_batches = [
                    load_micro_batch(self.streams, micro, self.options, step=step) for micro in plan.micro_batches[rank]
                ]
            except RgopdError as error:
                problem = error
            code = _GONE if isinstance(problem, Vanished) else _BAD if problem else _GOOD
            worst = agree(_STOP if self.should_stop() and code == _GOOD else code)
            if worst == _GOOD:
                return plan, micro_batches
            if worst == _STOP:
                return None
            if worst == _BAD:
                raise problem or Unavailable("another rank cannot use its rollouts; its log says why")
            if self.lead is not None:
                log.warning("results vanished between plan and training: %s", problem or "another rank's")
                self.lead.orchestrator.recheck(step)
        raise Unavailable(
            f"step {step}: results keep vanishing from {self.streams.blobs.where}; {why_vanished(self.streams)}"
        )

    def _plan(self, step: int) -> StepPlan | None:
        """Rank 0 collects; all get the plan. An error on rank 0 ends the others too, not in a time-out."""
        if self.lead is None:
            data = broadcast_bytes(None)
            return None if data == _STOP_WORD else StepPlan.from_json(data)
        try:
            plan = self.lead.collect(step)
        except Interrupted:
            broadcast_bytes(_STOP_WORD)
            return None
        except RgopdError:
            broadcast_bytes(b"")
            raise
        broadcast_bytes(plan.to_json())
        return plan
