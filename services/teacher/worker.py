"""The stream door: ScoreJob on `score` -> TeacherScore blob -> StageDone on `results`."""

from __future__ import annotations

from concurrent.futures import Future

from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.deadlines import for_response
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import InvalidInput, Malformed, RolloutGone
from rgopd.common.stage import outcome_of, stage_done
from rgopd.common.streams import ROLLOUT, SCORE, TEACHER_SCORE, Streams
from rgopd.common.teacher_client import score_stream
from rgopd.common.worker import DEADLINES_S, announce_failure
from rgopd.common.workers import StreamWorkers
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.teacher.alignment.talk import talk_of
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.codec import across_kind, score_to_proto, set_temperature, support_kind, tensor_ids
from rgopd.teacher.items import ScoreItem
from rgopd.teacher.validation import make_item, make_scoring


class ScoreWorker:
    """Scores the run's jobs for one teacher (by name; "" is the default) with the engine that also serves HTTP."""

    def __init__(
        self,
        service: TeacherService,
        streams: Streams,
        *,
        teacher: str = "",
        consumer: str,
        max_inflight: int = 64,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._service = service
        self._streams = streams
        self._teacher = teacher
        self._worker = StreamWorkers(
            streams,
            score_stream(teacher),
            self._submit,
            announce_failure(teacher_pb2.ScoreJob, SCORE),
            consumer=consumer,
            max_inflight=max_inflight,
            registry=registry,
            deadline_s=_deadline_s,
            stage=SCORE,
        )

    def start(self) -> None:
        """Begin to lease messages."""
        self._worker.start()

    def stop(self, drain_s: float) -> None:
        """Finish what is leased, for at most `drain_s` seconds; give the rest back."""
        self._worker.stop(drain_s)

    def _submit(self, delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(teacher_pb2.ScoreJob, delivery.payload)
        wire.check_schema(job.header)
        if job.teacher != self._teacher:  # other weights: a score that looks right and is not is worse than none
            raise InvalidInput(
                f"the job of rollout {job.header.rollout_id!r} is for teacher {job.teacher!r}, and this is "
                f"{self._teacher!r} (teacher_name; '' is the default); it belongs on {score_stream(job.teacher)!r}"
            )
        if self._streams.blobs.get(TEACHER_SCORE, job.header.rollout_id) is not None:
            # A replayed message: the first result stands and costs no second forward.
            known: Future[Outcome] = Future()
            known.set_result(_outcome(job, None))
            return known
        item = self._item(job)
        (scored,) = self._service.submit([item], job.header.trace_id)
        return outcome_of(scored, lambda score: _outcome(job, score_to_proto(item, score).SerializeToString()))

    def _item(self, job: teacher_pb2.ScoreJob) -> ScoreItem:
        rollout_id = job.header.rollout_id
        data = self._streams.blobs.get(ROLLOUT, rollout_id, announced=True)
        if data is None:
            raise RolloutGone(
                f"rollout {rollout_id!r} is not in the blob store: it expired before it was scored, "
                "or the job came before the rollout was stored"
            )
        rollout = wire.parse(rollout_pb2.Rollout, data)
        info = self._service.info
        scoring = make_scoring(support_kind(job.support), job.k, set_temperature(job.temperature), info)
        support_ids = None
        if scoring.support == "student":
            support_ids = tensor_ids(rollout.support_ids, rollout_id, "support_ids", 2)
        response_ids = tensor_ids(rollout.response_ids, rollout_id, "response_ids", 1)
        if (aligner := self._service.aligner) is not None:
            across = across_kind(job.across) if scoring.support == "student" else "mapped"
            messages, talk = rollout.messages_json, talk_of(rollout)
            return aligner.item(rollout_id, messages, response_ids, support_ids, scoring, info, across, talk)
        prompt_ids = tensor_ids(rollout.prompt_ids, rollout_id, "prompt_ids", 1)
        return make_item(rollout_id, prompt_ids, response_ids, support_ids, scoring, info)


def _deadline_s(delivery: Delivery) -> float:
    """How long a job may take: in proportion to its rollout's tokens."""
    try:
        job = wire.parse(teacher_pb2.ScoreJob, delivery.payload)
    except Malformed:
        return DEADLINES_S[SCORE]
    return for_response(DEADLINES_S[SCORE], job.tokens)


def _outcome(job: teacher_pb2.ScoreJob, blob: bytes | None) -> Outcome:
    blobs = {} if blob is None else {(TEACHER_SCORE, job.header.rollout_id): blob}
    return Outcome(blobs=blobs, announce=[stage_done(job.header, SCORE, job.group_id)])
