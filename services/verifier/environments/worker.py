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
from rgopd.verifier.environments.base import Observation, broken
from rgopd.verifier.environments.service import Environments


def submitter(streams: Streams, environments: Environments) -> Callable[[Delivery], Future[Outcome]]:
    """Turns a delivery into running episodes; it is done when the last of them is.

    What was answered before (the message is a twin) stands, and a server does not hear of it again. An episode that
    cannot be answered at all, say of an environment that is not there, is an `error` of its own: the others go on.
    """

    def submit(delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(environment_pb2.StepJob, delivery.payload)
        wire.check_schema(job.header)
        # Servers hear of episodes of several runs; rollouts are named within theirs.
        episodes = [replace(e, id=f"{job.header.run_id}/{e.id}") for e in map(schemas.from_message, job.episodes)]
        said = [_stored(data) for data in streams.blobs.get_many(OBSERVATION, _keys(job))]
        said = [s or _refused(environments.problem(e)) for s, e in zip(said, episodes, strict=True)]
        asked = iter(environments.submit([e for e, known in zip(episodes, said, strict=True) if known is None]))
        return _gathered([next(asked) if s is None else _known(s) for s in said], lambda each: _outcome(job, each))

    return submit


def _keys(job: environment_pb2.StepJob) -> list[str]:
    return [turn_key(episode.id, len(episode.actions) - 1) for episode in job.episodes]


def _stored(data: bytes | None) -> Observation | None:
    return None if data is None else schemas.of_message(wire.parse(environment_pb2.Observation, data))


def _refused(problem: str) -> Observation | None:
    return broken(problem) if problem else None


def _known(observation: Observation) -> Future[Observation]:
    future: Future[Observation] = Future()
    future.set_result(observation)
    return future


def _outcome(job: environment_pb2.StepJob, observations: Sequence[Observation]) -> Outcome:
    blobs = {}
    for episode, key, said in zip(job.episodes, _keys(job), observations, strict=True):
        blobs[OBSERVATION, key] = schemas.to_message(said.but(id=episode.id)).SerializeToString()
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
        submitter(streams, environments),
        give_up,
        consumer=consumer_name("environment"),
        max_inflight=16,
        registry=metrics,
    )
