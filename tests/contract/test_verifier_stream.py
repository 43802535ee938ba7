"""The stream door on a real Valkey: VerifyJob in, Verdict blob and StageDone out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.deliveries import Delivery
from rgopd.common.streams import RESULTS, VERDICT, VERIFY, Streams
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine
from rgopd.verifier.worker import stream_worker
from tests.waiting import eventually


@pytest.fixture(scope="module")
def engine() -> Iterator[VerifierEngine]:
    engine, _ = build_engine(VerifierConfig(workers=1, math_workers=1))
    yield engine
    engine.close()


@pytest.fixture
def worker(engine: VerifierEngine, streams: Streams) -> Iterator[None]:
    streams.ensure(VERIFY)
    streams.ensure(RESULTS)
    running = stream_worker(streams, engine, CollectorRegistry(), inflight=8)
    running.start()
    yield
    running.stop(5)


def job(streams: Streams, rollout_id: str, kind: str, response: str, **fields: object) -> bytes:
    check = verifier_pb2.Check(kind=kind, response=response, spec_json=json.dumps(fields))
    header = wire.header(streams.run_id, rollout_id)
    return verifier_pb2.VerifyJob(header=header, group_id="g", check=check).SerializeToString()


def results(streams: Streams, count: int) -> dict[str, rollout_pb2.StageDone]:
    found: dict[str, rollout_pb2.StageDone] = {}
    deadline = time.monotonic() + 120
    while len(found) < count and time.monotonic() < deadline:
        deliveries: list[Delivery] = streams.read(RESULTS, "test", count=16, block_ms=200)
        for delivery in deliveries:
            done = wire.parse(rollout_pb2.StageDone, delivery.payload)
            found[done.header.rollout_id] = done
    return found


def test_verdicts_are_stored_and_announced(worker: None, streams: Streams) -> None:
    streams.add(VERIFY, job(streams, "r1", "math", "so \\boxed{0.5}", reference="1/2"))
    streams.add(VERIFY, job(streams, "r2", "code", "def f(): return 2", tests=["assert f() == 1"]))
    streams.add(VERIFY, job(streams, "r3", "exact", "a", reference="a", truncated=True, on_truncated="error"))
    done = results(streams, 3)
    assert {d.stage for d in done.values()} == {"verify"}
    assert {d.group_id for d in done.values()} == {"g"}
    assert not any(d.HasField("failure") for d in done.values())
    blobs = streams.blobs.get_many(VERDICT, ["r1", "r2", "r3"])
    verdicts = [wire.parse(verifier_pb2.Verdict, blob) for blob in blobs if blob is not None]
    assert [v.status for v in verdicts] == [
        verifier_pb2.VERDICT_PASSED,
        verifier_pb2.VERDICT_FAILED,
        verifier_pb2.VERDICT_ERROR,
    ]
    assert [v.HasField("reward") for v in verdicts] == [True, True, False]
    assert [v.id for v in verdicts] == ["r1", "r2", "r3"]


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [("maths", {}, "did you mean 'math'"), ("math", {}, "missing field 'reference'")],
)
def test_what_cannot_be_checked_is_given_up_at_once(
    worker: None, streams: Streams, kind: str, fields: dict[str, object], says: str
) -> None:
    streams.add(VERIFY, job(streams, "bad", kind, "x", **fields))
    failure = results(streams, 1)["bad"].failure
    assert (failure.stage, failure.kind, failure.attempts) == ("verify", "invalid_input", 1)
    assert says in failure.reason
    assert says in streams.dead_letters()[0].reason
    assert streams.blobs.get(VERDICT, "bad") is None


def test_a_job_without_a_rollout_id_is_a_dead_letter(worker: None, streams: Streams) -> None:
    streams.add(VERIFY, job(streams, "", "math", "4", reference="4"))
    eventually(streams.dead_letters)
    assert "rollout_id" in streams.dead_letters()[0].reason
