"""The sampler's stream door: GenerateRequest in; rollouts, verify jobs and score jobs out, as each rollout ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, Malformed
from rgopd.common.identity import derive_seed, rollout_id
from rgopd.common.policies import PolicyStore, verified
from rgopd.common.stage import stage_done, stage_failed
from rgopd.common.streams import GENERATE, ROLLOUT, VERIFY, Delivery, Outcome, Streams
from rgopd.common.teacher_client import score_stream
from rgopd.common.telemetry import log_context
from rgopd.protos import rollout_pb2, teacher_pb2, verifier_pb2
from rgopd.sampler.engine import Sample, SamplerEngine, SampleSpec, SamplingOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Slot:
    """Which rollout a row of the batch is."""

    group: rollout_pb2.GroupRequest
    index: int

    @property
    def rollout_id(self) -> str:
        return rollout_id(self.group.group_id, self.index)


class SamplerWorker:
    """Owns the engine; one request at a time, since a batch fills the device."""

    def __init__(
        self,
        engine: SamplerEngine,
        streams: Streams,
        *,
        policy_timeout_s: float,
        registry: CollectorRegistry,
        sleeps: bool = False,
    ) -> None:
        """sleeps: the engine sleeps between requests. A request is acknowledged after that, so that a stream
        without one in work means that the device is free."""
        self.engine = engine
        self.sleeps = sleeps
        self.streams = streams
        self.policies = PolicyStore(streams)
        self.policy_timeout_s = policy_timeout_s
        self.loaded_sha = ""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self.tokens = Counter("rgopd_sampled_tokens", "Response tokens sampled", registry=registry)
        self.version = Gauge("rgopd_policy_version", "Policy version in the sampler", registry=registry)

    def submit(self, delivery: Delivery) -> Future[Outcome]:
        """For `StreamWorker`."""
        request = wire.parse(rollout_pb2.GenerateRequest, delivery.payload)
        wire.check_schema(request.header)
        return self._pool.submit(self._generate, request)

    def _generate(self, request: rollout_pb2.GenerateRequest) -> Outcome:
        with log_context(request_id=request.request_id, policy_version=request.policy_version), self._awake():
            self._load(request.policy_version)
            slots = [_Slot(group, i) for group in request.groups for i in range(group.n)]
            specs = [self._spec(slot) for slot in slots]
            self.engine.generate(
                specs, _options(request.sampling), lambda i, sample: self._publish(request, slots[i], specs[i], sample)
            )
        return Outcome()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        if not self.sleeps:
            yield
            return
        self.engine.wake()
        try:
            yield
        finally:
            self.engine.sleep()

    def _load(self, version: int) -> None:
        """Serve no request with other weights than it asks for."""
        policy = self.policies.wait(version, self.policy_timeout_s)
        if policy.sha256 == self.loaded_sha:
            return
        self.loaded_sha = ""  # unknown until the load is whole
        self.engine.load_weights(verified(policy, min(30.0, self.policy_timeout_s)))
        self.loaded_sha = policy.sha256
        self.version.set(version)

    def _spec(self, slot: _Slot) -> SampleSpec:
        prompt_ids_C = wire.from_tensor(slot.group.prompt.prompt_ids, "prompt_ids", dtype="int32", ndim=1)
        if prompt_ids_C.size == 0:
            raise InvalidInput(f"group {slot.group.group_id}: the prompt is empty")
        return SampleSpec(prompt_ids_C, derive_seed(slot.group.seed, slot.index))

    def _publish(self, request: rollout_pb2.GenerateRequest, slot: _Slot, spec: SampleSpec, sample: Sample) -> None:
        self.tokens.inc(len(sample.response_ids_T))
        header = wire.header(request.header.run_id, slot.rollout_id, trace_id=request.header.trace_id)
        rollout = rollout_pb2.Rollout(
            header=header,
            group_id=slot.group.group_id,
            index=slot.index,
            policy_version=request.policy_version,
            prompt_ids=wire.to_tensor(np.ascontiguousarray(spec.prompt_ids_C)),
            response_ids=wire.to_tensor(sample.response_ids_T),
            sampled_logprobs=wire.to_tensor(sample.sampled_logprobs_T),
            support_ids=wire.to_tensor(sample.support_ids_TK),
            response_text=self.engine.decode(sample.response_ids_T),
            finish_reason=rollout_pb2.FINISH_STOP if sample.finished else rollout_pb2.FINISH_LENGTH,
            prompt_id=slot.group.prompt.prompt_id,
        )
        earlier = self.streams.blobs.get(ROLLOUT, slot.rollout_id)
        if earlier is not None:  # the first one stands: verdict and score must be of the text that will be trained on
            rollout = wire.parse(rollout_pb2.Rollout, earlier)
        self.streams.publish(
            Outcome(
                blobs={(ROLLOUT, slot.rollout_id): rollout.SerializeToString()},
                announce=self._next(request, slot, rollout),
            )
        )

    def _next(
        self, request: rollout_pb2.GenerateRequest, slot: _Slot, rollout: rollout_pb2.Rollout
    ) -> list[tuple[str, bytes]]:
        """What follows from a finished rollout, in one transaction with it: nobody hears of one that is not there."""
        header, group_id = rollout.header, slot.group.group_id
        messages: list[tuple[str, bytes]] = []
        if request.verify:
            check = verifier_pb2.Check()
            check.CopyFrom(slot.group.prompt.check)
            check.response = rollout.response_text
            verify = verifier_pb2.VerifyJob(header=header, group_id=group_id, check=check)
            messages.append((VERIFY, verify.SerializeToString()))
        if request.HasField("score_job"):
            job = teacher_pb2.ScoreJob()
            job.CopyFrom(request.score_job)
            job.header.CopyFrom(header)
            job.group_id = group_id
            job.teacher = slot.group.prompt.teacher
            messages.append((score_stream(job.teacher), job.SerializeToString()))
        return [*messages, stage_done(header, GENERATE, group_id)]

    def close(self) -> None:
        """Wait for the batch in hand."""
        self._pool.shutdown()


def give_up(delivery: Delivery, kind: str, reason: str) -> Outcome:
    """One failure a group, so that the join waits for none of them."""
    try:
        request = wire.parse(rollout_pb2.GenerateRequest, delivery.payload)
    except Malformed:
        return Outcome()
    failed = partial(stage_failed, request.header, GENERATE, kind=kind, reason=reason, attempts=delivery.attempt)
    return Outcome(announce=[failed(group.group_id) for group in request.groups])


def _options(params: rollout_pb2.SamplingParams) -> SamplingOptions:
    if params.max_new_tokens < 1:
        raise InvalidInput("sampling.max_new_tokens must be at least 1")
    return SamplingOptions(
        params.temperature, params.top_p or 1.0, params.top_k, params.max_new_tokens, params.support_k
    )
