"""What a sampler says of a finished rollout, and what a request asks of it. Both workers speak through this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from rgopd.common import wire
from rgopd.common.conversation import check_of
from rgopd.common.deadlines import for_response
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import ConfigError, InvalidInput, Malformed, Unavailable
from rgopd.common.identity import derive_seed, rollout_id
from rgopd.common.policies import PolicyStore, verified
from rgopd.common.stage import stage_done, stage_failed
from rgopd.common.streams import GENERATE, ROLLOUT, VERIFY, Streams
from rgopd.common.teacher_client import score_stream
from rgopd.common.worker import DEADLINES_S
from rgopd.protos import rollout_pb2, teacher_pb2, verifier_pb2
from rgopd.sampler.engine import Sample, SamplerEngine, SampleSpec, SamplingOptions

SILENT = "the sampler's engine ended a turn before its first token"
"""No student does that, since its end of turn is a token: so nothing was said that could be judged or trained on."""


@dataclass(frozen=True)
class Slot:
    """Which rollout a row is, and what it is sampled from."""

    group: rollout_pb2.GroupRequest
    index: int
    spec: SampleSpec

    @property
    def rollout_id(self) -> str:
        """Its name in the run."""
        return rollout_id(self.group.group_id, self.index)


def read_request(delivery: Delivery) -> rollout_pb2.GenerateRequest:
    """The request of a message; InvalidInput for one of a newer schema."""
    request = wire.parse(rollout_pb2.GenerateRequest, delivery.payload)
    wire.check_schema(request.header)
    return request


def slots_of(request: rollout_pb2.GenerateRequest) -> list[Slot]:
    """A request's rollouts, in the order of its groups.

    Raises:
        InvalidInput: a prompt is empty.
    """
    return [Slot(group, i, _spec(group, i)) for group in request.groups for i in range(group.n)]


def _spec(group: rollout_pb2.GroupRequest, index: int) -> SampleSpec:
    prompt_ids_C = wire.from_tensor(group.prompt.prompt_ids, "prompt_ids", dtype="int32", ndim=1)
    if prompt_ids_C.size == 0:
        raise InvalidInput(f"group {group.group_id}: the prompt is empty")
    return SampleSpec(prompt_ids_C, derive_seed(group.seed, index))


def options_of(params: rollout_pb2.SamplingParams) -> SamplingOptions:
    """How a request wants its rollouts sampled; InvalidInput for no room to answer."""
    if params.max_new_tokens < 1:
        raise InvalidInput("sampling.max_new_tokens must be at least 1")
    return SamplingOptions(
        params.temperature, params.top_p or 1.0, params.top_k, params.max_new_tokens, params.support_k
    )


class Publisher:
    """Stores rollouts and announces what follows from them."""

    def __init__(
        self, streams: Streams, decode: Callable[[NDArray[np.int32]], str], registry: CollectorRegistry
    ) -> None:
        self.streams = streams
        self.decode = decode
        self.tokens = Counter("rgopd_sampled_tokens", "Response tokens sampled", registry=registry)

    def publish(self, request: rollout_pb2.GenerateRequest, slot: Slot, sample: Sample) -> None:
        """Store a finished rollout, unless there is one under its name, and announce the one that stands."""
        self.tokens.inc(len(sample.response_ids_T))
        if not len(sample.response_ids_T):
            self.failed(request, slot, SILENT)
            return
        rollout = self.rollout(request, slot)
        rollout.response_ids.CopyFrom(wire.to_tensor(sample.response_ids_T))
        rollout.sampled_logprobs.CopyFrom(wire.to_tensor(sample.sampled_logprobs_T))
        rollout.support_ids.CopyFrom(wire.to_tensor(sample.support_ids_TK))
        rollout.response_text = self.decode(sample.response_ids_T)
        rollout.finish_reason = rollout_pb2.FINISH_STOP if sample.finished else rollout_pb2.FINISH_LENGTH
        self.finish(request, slot, rollout)

    def failed(self, request: rollout_pb2.GenerateRequest, slot: Slot, reason: str) -> None:
        """Announce that there will be no such rollout: one alone, the others of its request are whole."""
        header = wire.header(request.header.run_id, slot.rollout_id, trace_id=request.header.trace_id)
        said = stage_failed(header, GENERATE, slot.group.group_id, kind="engine", reason=reason, attempts=1)
        self.streams.publish(Outcome(announce=[said]), slot.group.group_id)

    def rollout(self, request: rollout_pb2.GenerateRequest, slot: Slot) -> rollout_pb2.Rollout:
        """A slot's rollout without its response."""
        return rollout_pb2.Rollout(
            header=wire.header(request.header.run_id, slot.rollout_id, trace_id=request.header.trace_id),
            group_id=slot.group.group_id,
            index=slot.index,
            policy_version=request.policy_version,
            prompt_ids=wire.to_tensor(np.ascontiguousarray(slot.spec.prompt_ids_C)),
            prompt_id=slot.group.prompt.prompt_id,
            messages_json=slot.group.prompt.messages_json,
            temperature=request.sampling.temperature,
        )

    def finish(self, request: rollout_pb2.GenerateRequest, slot: Slot, rollout: rollout_pb2.Rollout) -> None:
        """Store a whole rollout, unless there is one under its name, and announce the one that stands."""
        if not self.repeat(request, slot):
            self._store(request, slot, rollout)

    def repeat(self, request: rollout_pb2.GenerateRequest, slot: Slot) -> bool:
        """Announce a rollout that is stored already; False: there is none.

        The first one stands: verdict and score must be of the text that will be trained on. It is announced again
        because who waits for it may not have heard.
        """
        earlier = self.streams.blobs.get(ROLLOUT, slot.rollout_id)
        if earlier is None:
            return False
        self._store(request, slot, wire.parse(rollout_pb2.Rollout, earlier))
        return True

    def _store(self, request: rollout_pb2.GenerateRequest, slot: Slot, rollout: rollout_pb2.Rollout) -> None:
        self.streams.publish(
            Outcome(
                blobs={(ROLLOUT, slot.rollout_id): rollout.SerializeToString()},
                announce=_next(request, slot, rollout),
            ),
            slot.group.group_id,
        )


def _next(request: rollout_pb2.GenerateRequest, slot: Slot, rollout: rollout_pb2.Rollout) -> list[tuple[str, bytes]]:
    """What follows from a finished rollout, in one transaction with it: nobody hears of one that is not there."""
    header, group_id = rollout.header, slot.group.group_id
    messages: list[tuple[str, bytes]] = []
    if request.verify:
        check = check_of(slot.group.prompt.check, rollout)
        verify = verifier_pb2.VerifyJob(header=header, group_id=group_id, check=check)
        messages.append((VERIFY, verify.SerializeToString()))
    if request.HasField("score_job"):
        job = teacher_pb2.ScoreJob()
        job.CopyFrom(request.score_job)
        job.header.CopyFrom(header)
        job.group_id = group_id
        job.teacher = slot.group.prompt.teacher
        job.temperature = rollout.temperature or job.temperature  # of the rollout that stands
        job.tokens = rollout.prompt_ids.shape[0] + rollout.response_ids.shape[0]
        messages.append((score_stream(job.teacher), job.SerializeToString()))
    return [*messages, stage_done(header, GENERATE, group_id)]


class Policy:
    """Which weights an engine holds. No request is served with other weights than it asks for."""

    def __init__(self, engine: SamplerEngine, store: PolicyStore, registry: CollectorRegistry) -> None:
        self.engine = engine
        self.store = store
        self.loaded_sha = ""
        self.version = Gauge("rgopd_policy_version", "Policy version in the sampler", registry=registry)

    def holds(self, policy: rollout_pb2.PolicyVersion) -> bool:
        """Whether the engine has these weights, under whatever version."""
        return policy.sha256 == self.loaded_sha

    def load(self, policy: rollout_pb2.PolicyVersion, timeout_s: float) -> None:
        """Give the engine a version's weights, unless it has them.

        Raises:
            Unavailable: the files are not what was announced within `timeout_s`, or were removed meanwhile.
            ConfigError: they do not fit the student.
        """
        if self.holds(policy):
            return
        self.loaded_sha = ""  # unknown until the load is whole
        folder = verified(policy, min(30.0, timeout_s))
        try:
            self.engine.load_weights(folder)
        except (OSError, ConfigError) as error:
            if folder.is_dir():
                raise
            raise Unavailable(f"policy version {policy.version} was removed while it was loaded: {error}") from error
        self.loaded_sha = policy.sha256
        self.version.set(policy.version)


def deadline_s(delivery: Delivery) -> float:
    """How long a request may take: in proportion to the longest response it may bring, and to its rows."""
    base_s = DEADLINES_S[GENERATE]
    try:
        request = wire.parse(rollout_pb2.GenerateRequest, delivery.payload)
    except Malformed:
        return base_s
    return for_response(base_s, request.sampling.max_new_tokens, sum(group.n for group in request.groups))


def give_up(delivery: Delivery, kind: str, reason: str) -> Outcome:
    """One failure a group, so that the join waits for none of them."""
    try:
        request = wire.parse(rollout_pb2.GenerateRequest, delivery.payload)
    except Malformed:
        return Outcome()
    failed = partial(stage_failed, request.header, GENERATE, kind=kind, reason=reason, attempts=delivery.attempt)
    return Outcome(announce=[failed(group.group_id) for group in request.groups])
