"""The stream door: VerifyJob from `verify`, Verdict into the blob store, StageDone on `results`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.errors import InvalidInput
from rgopd.common.server import consumer_name
from rgopd.common.streams import RESULTS, VERDICT, VERIFY, Delivery, Outcome, Streams
from rgopd.common.worker import StreamWorker, announce_failure
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.verifier import schemas
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.verdict import Verdict

STAGE = "verify"


def submitter(engine: VerifierEngine) -> Callable[[Delivery], Future[Outcome]]:
    """Turns a delivery into a running check."""

    def submit(delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(verifier_pb2.VerifyJob, delivery.payload)
        wire.check_schema(job.header)
        if not job.header.rollout_id:
            raise InvalidInput("a VerifyJob needs header.rollout_id: the verdict is stored under it")
        running = engine.submit(schemas.item_from_check(job.header.rollout_id, job.check))
        outcome: Future[Outcome] = Future()

        def finish(done: Future[Verdict]) -> None:
            problem = done.exception()
            if problem is not None:
                outcome.set_exception(problem)
            else:
                outcome.set_result(_outcome(job, done.result()))

        running.add_done_callback(finish)
        return outcome

    return submit


def _outcome(job: verifier_pb2.VerifyJob, verdict: Verdict) -> Outcome:
    done = rollout_pb2.StageDone(header=job.header, stage=STAGE, group_id=job.group_id)
    blob = schemas.to_message(verdict).SerializeToString()
    return Outcome(
        blobs={(VERDICT, job.header.rollout_id): blob},
        announce=[(RESULTS, done.SerializeToString())],
    )


def stream_worker(streams: Streams, engine: VerifierEngine, metrics: CollectorRegistry, inflight: int) -> StreamWorker:
    """The verifier's stream worker, not yet started."""
    return StreamWorker(
        streams,
        VERIFY,
        submitter(engine),
        announce_failure(verifier_pb2.VerifyJob, STAGE),
        consumer=consumer_name("verifier"),
        max_inflight=inflight,
        registry=metrics,
    )
