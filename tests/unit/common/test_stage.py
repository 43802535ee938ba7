from __future__ import annotations

from concurrent.futures import Future

import pytest

from rgopd.common import wire
from rgopd.common.deliveries import Outcome
from rgopd.common.errors import Overloaded
from rgopd.common.stage import MAX_REASON, outcome_of, stage_done, stage_failed
from rgopd.common.streams import RESULTS
from rgopd.protos import rollout_pb2


def test_the_end_and_the_failure_of_a_stage() -> None:
    header = wire.header("run", "r0")
    stream, payload = stage_done(header, "verify", "g")
    message = wire.parse(rollout_pb2.StageDone, payload)
    assert (stream, message.stage, message.group_id, message.HasField("failure")) == (RESULTS, "verify", "g", False)
    _, payload = stage_failed(header, "score", "g", kind="engine", reason="x" * 9999, attempts=3)
    failure = wire.parse(rollout_pb2.StageDone, payload).failure
    assert (failure.stage, failure.group_id, failure.kind, failure.attempts) == ("score", "g", "engine", 3)
    assert failure.header.rollout_id == "r0"
    assert len(failure.reason) == MAX_REASON


def test_an_outcome_follows_its_source() -> None:
    result, failing, cancelled = Future[int](), Future[int](), Future[int]()
    outcomes = [
        outcome_of(source, lambda n: Outcome(blobs={("s", "r"): bytes(n)})) for source in (result, failing, cancelled)
    ]
    result.set_result(2)
    failing.set_exception(Overloaded("full"))
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    assert outcomes[0].result(0).blobs == {("s", "r"): b"\0\0"}
    with pytest.raises(Overloaded, match="full"):
        outcomes[1].result(0)
    assert outcomes[2].cancelled()
