"""What every stage answers with: its end, or its failure, on the stream `results`; and futures that become outcomes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from rgopd.common.deliveries import Outcome
from rgopd.common.streams import RESULTS
from rgopd.protos import common_pb2, rollout_pb2

T = TypeVar("T")

MAX_REASON = 4000
"""Characters of a failure's reason that travel."""


def stage_done(header: common_pb2.Header, stage: str, group_id: str) -> tuple[str, bytes]:
    """The announcement that a stage has finished with a rollout: (stream, message)."""
    done = rollout_pb2.StageDone(header=header, stage=stage, group_id=group_id)
    return RESULTS, done.SerializeToString()


def stage_failed(
    header: common_pb2.Header, stage: str, group_id: str, *, kind: str, reason: str, attempts: int
) -> tuple[str, bytes]:
    """The same of a stage that has given up, so that the join does not wait in vain."""
    failure = common_pb2.Failure(
        header=header, stage=stage, kind=kind, reason=reason[:MAX_REASON], attempts=attempts, group_id=group_id
    )
    done = rollout_pb2.StageDone(header=header, stage=stage, group_id=group_id, failure=failure)
    return RESULTS, done.SerializeToString()


def outcome_of(source: Future[T], make: Callable[[T], Outcome]) -> Future[Outcome]:
    """What `make` says of the source's result, once there is one; its exception or its cancelling otherwise."""
    outcome: Future[Outcome] = Future()

    def finish(done: Future[T]) -> None:
        if done.cancelled():
            outcome.cancel()
        elif (problem := done.exception()) is not None:
            outcome.set_exception(problem)
        else:
            outcome.set_result(make(done.result()))

    source.add_done_callback(finish)
    return outcome
