"""The stream door: VerifyJob from `verify`, Verdict into the blob store, StageDone on `results`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import InvalidInput
from rgopd.common.server import consumer_name
from rgopd.common.stage import outcome_of, stage_done
from rgopd.common.streams import VERDICT, VERIFY, Streams
from rgopd.common.worker import DEADLINES_S, announce_failure
from rgopd.common.workers import StreamWorkers
from rgopd.protos import verifier_pb2
from rgopd.verifier import schemas
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.verdict import Verdict

STAGE = "verify"
PROCESSES = 5
"""Under test for one item, one after the other, at the most usual."""


def submitter(engine: VerifierEngine) -> Callable[[Delivery], Future[Outcome]]:
    """Turns a delivery into a running check."""

    def submit(delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(verifier_pb2.VerifyJob, delivery.payload)
        wire.check_schema(job.header)
        if not job.header.rollout_id:
            raise InvalidInput("a VerifyJob needs header.rollout_id: the verdict is stored under it")
        running = engine.submit(schemas.item_from_check(job.header.rollout_id, job.check))
        return outcome_of(running, lambda verdict: _outcome(job, verdict))

    return submit


def _outcome(job: verifier_pb2.VerifyJob, verdict: Verdict) -> Outcome:
    blob = schemas.to_message(verdict).SerializeToString()
    done = stage_done(job.header, STAGE, job.group_id)
    return Outcome(blobs={(VERDICT, job.header.rollout_id): blob}, announce=[done])


def stream_worker(
    streams: Streams, engine: VerifierEngine, metrics: CollectorRegistry, inflight: int, max_wall_s: float = 0.0
) -> StreamWorkers:
    """The verifier's stream worker, not yet started. `max_wall_s`: the most that one process under test may take."""
    return StreamWorkers(
        streams,
        VERIFY,
        submitter(engine),
        announce_failure(verifier_pb2.VerifyJob, STAGE),
        consumer=consumer_name("verifier"),
        max_inflight=inflight,
        registry=metrics,
        deadline_s=max(DEADLINES_S[VERIFY], PROCESSES * max_wall_s),
    )
