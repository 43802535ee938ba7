"""The stream door: StepJob from `environment`, Observations into the blob store, the request back on `generate`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.conversation import OBSERVATION, turn_key
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import Malformed
from rgopd.common.server import consumer_name
from rgopd.common.stage import stage_failed
from rgopd.common.streams import ENVIRONMENT, GENERATE, Streams
from rgopd.common.workers import StreamWorkers
from rgopd.protos import environment_pb2
from rgopd.verifier.environments import schemas
from rgopd.verifier.environments.base import Observation
from rgopd.verifier.environments.service import Environments


def submitter(environments: Environments) -> Callable[[Delivery], Future[Outcome]]:
    """Turns a delivery into running episodes; it is done when the last of them is."""

    def submit(delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(environment_pb2.StepJob, delivery.payload)
        wire.check_schema(job.header)
        # Servers hear of episodes of several runs; rollouts are named within theirs.
        episodes = [schemas.from_message(e) for e in job.episodes]
        named = [replace(e, id=f"{job.header.run_id}/{e.id}") for e in episodes]
        return _gathered(environments.submit(named), lambda said: _outcome(job, said))

    return submit


def _outcome(job: environment_pb2.StepJob, observations: Sequence[Observation]) -> Outcome:
    blobs = {}
    for episode, said in zip(job.episodes, observations, strict=True):
        message = schemas.to_message(said.but(id=episode.id))
        blobs[OBSERVATION, turn_key(episode.id, len(episode.actions) - 1)] = message.SerializeToString()
    return Outcome(blobs=blobs, announce=[(GENERATE, job.request)])


def _gathered(
    futures: Sequence[Future[Observation]], make: Callable[[Sequence[Observation]], Outcome]
) -> Future[Outcome]:
    gathered: Future[Outcome] = Future()
    left = [len(futures)]
    lock = threading.Lock()

    def finish(_: Future[Observation]) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        problems = [f.exception() for f in futures if not f.cancelled() and f.exception() is not None]
        if problems:
            gathered.set_exception(problems[0])
        elif any(future.cancelled() for future in futures):
            gathered.cancel()
        else:
            gathered.set_result(make([future.result() for future in futures]))

    for future in futures:
        future.add_done_callback(finish)
    return gathered


def give_up(delivery: Delivery, kind: str, reason: str) -> Outcome:
    """Its conversations end here, so that the join does not wait for them."""
    try:
        job = wire.parse(environment_pb2.StepJob, delivery.payload)
    except Malformed:
        return Outcome()
    return Outcome(
        announce=[
            stage_failed(
                wire.header(job.header.run_id, episode.id),
                GENERATE,
                "",
                kind=kind,
                reason=f"environment: {reason}",
                attempts=delivery.attempt,
            )
            for episode in job.episodes
        ]
    )


def environment_worker(streams: Streams, environments: Environments, metrics: CollectorRegistry) -> StreamWorkers:
    """The stream worker, not yet started."""
    return StreamWorkers(
        streams,
        ENVIRONMENT,
        submitter(environments),
        give_up,
        consumer=consumer_name("environment"),
        max_inflight=16,
        registry=metrics,
    )
