"""The sampler's stream door for an engine that takes one batch at a time: GenerateRequest in; rollouts, verify jobs
and score jobs out, as each rollout ends. For vLLM, which mixes requests, see `continuous.py`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.policies import PolicyStore
from rgopd.common.streams import Streams
from rgopd.common.telemetry import log_context
from rgopd.protos import rollout_pb2
from rgopd.sampler.engine import SamplerEngine, SamplingOptions
from rgopd.sampler.publish import Policy, Publisher, options_of, read_request, slots_of
from rgopd.sampler.turns import Conversations, converses


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
        self.policies = PolicyStore(streams)
        self.policy = Policy(engine, self.policies, registry)
        self.publisher = Publisher(streams, engine.decode, registry)
        self.conversations = Conversations(streams, self.publisher, engine)
        self.policy_timeout_s = policy_timeout_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sampler")

    def submit(self, delivery: Delivery) -> Future[Outcome]:
        """For `StreamWorker`."""
        return self._pool.submit(self._generate, read_request(delivery))

    def _generate(self, request: rollout_pb2.GenerateRequest) -> Outcome:
        with log_context(request_id=request.request_id, policy_version=request.policy_version), self._awake():
            self.policy.load(self.policies.wait(request.policy_version, self.policy_timeout_s), self.policy_timeout_s)
            options = options_of(request.sampling)
            if converses(request):
                return self._turn(request, options)
            slots = slots_of(request)
            self.engine.generate(
                [slot.spec for slot in slots],
                options,
                lambda i, sample: self.publisher.publish(request, slots[i], sample),
            )
        return Outcome()

    def _turn(self, request: rollout_pb2.GenerateRequest, options: SamplingOptions) -> Outcome:
        """One turn of its conversations. Half of one that an earlier holder sampled is sampled again with the other
        half: a batch is part of the numbers."""
        turn = self.conversations.next(request, options)
        if turn is None:
            return Outcome()
        if not turn.sampled:
            self.engine.generate(
                [slot.spec for slot in turn.slots],
                options,
                lambda i, sample: self.conversations.store(request, turn, turn.slots[i], sample),
            )
        return self.conversations.after(request, turn)

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

    def close(self) -> None:
        """Wait for the batch in hand."""
        self._pool.shutdown()
