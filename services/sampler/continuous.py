"""The sampler's stream door for vLLM: several requests in flight, their rows mixed by continuous batching.

One batch at a time drains to its longest row, and the device idles behind it. Here requests are leased as long as the
KV cache has room for their rows; each is acknowledged on its own, and each rollout is announced as it ends. One thread
owns the engine: it admits, steps and publishes. Requests are admitted in order; one that needs other weights, or
another temperature, waits until the rows before it have ended, and holds back those behind it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge
from redis.exceptions import RedisError

from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import RgopdError, Unavailable
from rgopd.common.policies import PolicyStore
from rgopd.common.streams import Streams
from rgopd.common.telemetry import log_context
from rgopd.protos import rollout_pb2
from rgopd.sampler.engine import ContinuousEngine, SamplingOptions
from rgopd.sampler.publish import Policy, Publisher, Slot, options_of, read_request, slots_of
from rgopd.sampler.turns import Conversations, Round, converses

log = logging.getLogger(__name__)

_LOOK_S = 0.2
"""How often a policy that is not announced yet is looked for."""


@dataclass
class Job:
    """A request in work. `open`: names of its rows that the engine holds."""

    request: rollout_pb2.GenerateRequest
    options: SamplingOptions
    slots: list[Slot]
    since: float
    future: Future[Outcome] = field(default_factory=Future)
    open: set[str] = field(default_factory=set)
    error: RgopdError | RedisError | None = None
    turn: Round | None = None
    """Of its conversations, where it has some."""


class Room:
    """How many tokens of KV cache the rows in work will need, by the lengths seen so far.

    Args:
        kv_tokens: what the engine's cache holds.
    """

    def __init__(self, kv_tokens: int) -> None:
        self.kv_tokens = kv_tokens
        self._lengths: dict[int, tuple[int, int]] = {}
        """Of each limit (domains have their own): rollouts that ended, and their tokens."""

    def note(self, job: Job, response_tokens: int) -> None:
        """A rollout of a request ended with this many."""
        ended, tokens = self._lengths.get(job.options.max_new_tokens, (0, 0))
        self._lengths[job.options.max_new_tokens] = ended + 1, tokens + response_tokens

    def need(self, job: Job, rows: int) -> float:
        """Tokens that `rows` of a request's rollouts will hold when they end: half as many again as the mean length so
        far, or at first half of what they may be. Their prompts are shared by group."""
        most = job.options.max_new_tokens
        ended, tokens = self._lengths.get(most, (0, 0))
        response = min(most, 1.5 * tokens / ended) if ended else most / 2
        prompts = {slot.group.group_id: len(slot.spec.prompt_ids_C) for slot in job.slots}
        return rows * response + sum(prompts.values())


class ContinuousWorker:
    """Keeps the engine full.

    Args:
        engine: holds the student; this worker alone calls it.
        streams: the run's.
        policy_timeout_s: how long a request may wait for the policy version it asks for.
        registry: where the metrics go.
        sleeps: the engine sleeps while no request is in work, and none counts as done before it does: a stream without
            leases means that the device is free.
    """

    def __init__(
        self,
        engine: ContinuousEngine,
        streams: Streams,
        *,
        policy_timeout_s: float,
        registry: CollectorRegistry,
        sleeps: bool = False,
    ) -> None:
        self.engine = engine
        self.policies = PolicyStore(streams)
        self.policy = Policy(engine, self.policies, registry)
        self.publisher = Publisher(streams, engine.decode, registry)
        self.conversations = Conversations(streams, self.publisher, engine)
        self.policy_timeout_s = policy_timeout_s
        self.sleeps = sleeps
        self._awake = not sleeps
        self._waiting: deque[Job] = deque()
        self._working: list[Job] = []
        self._rows: dict[str, tuple[Job, Slot]] = {}
        self._space = Room(engine.kv_tokens)
        self._news = threading.Condition()
        self._closed = False
        self.running = Gauge("rgopd_sampler_rows", "Rollouts being sampled", registry=registry)
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def submit(self, delivery: Delivery) -> Future[Outcome]:
        """For `StreamWorker`."""
        request = read_request(delivery)
        job = Job(request, options_of(request.sampling), slots_of(request), time.monotonic())
        with self._news:
            self._waiting.append(job)
            self._news.notify()
        return job.future

    def room(self) -> int:
        """Requests that it would begin at once: 0 or 1, so that other samplers get their share of what waits."""
        with self._news:
            if self._waiting:
                return 0
            jobs = [job for job in self._working if job.open]
        if not jobs:
            return 1
        used = sum(self._space.need(job, len(job.open)) for job in jobs)
        another = max(self._space.need(job, len(job.slots)) for job in jobs)
        return int(used + another <= self._space.kv_tokens)

    def close(self) -> None:
        """Finish what is in work, then stop."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._admit()
                if self._rows:
                    self._step()
                self._settle()
            except (RgopdError, RedisError) as error:  # the outermost loop: nothing in work can be trusted to end
                self._fail_all(error)
            with self._news:
                if not self._rows and not self._waiting:
                    if self._closed:
                        return
                    self._news.wait(1.0)

    def _admit(self) -> None:
        """Give the engine the rows of every request that may run beside those in work, in order."""
        while self._waiting:
            job = self._waiting[0]
            with log_context(request_id=job.request.request_id), self._failing(job):
                if not self._fits(job):
                    return
                self._start(job)
            with self._news:
                self._waiting.popleft()
                self._working.append(job)

    def _fits(self, job: Job) -> bool:
        """Whether a request may begin now; loads its weights where nothing else is in work."""
        if self._rows and not self.engine.mixes(job.options):
            return False
        left_s = job.since + self.policy_timeout_s - time.monotonic()
        try:
            policy = self.policies.wait(job.request.policy_version, 0 if self._rows else min(_LOOK_S, max(0, left_s)))
        except Unavailable:
            if left_s <= 0:
                raise
            return False
        if self._rows and not self.policy.holds(policy):
            return False
        self._wake()
        self.policy.load(policy, self.policy_timeout_s)
        return True

    def _start(self, job: Job) -> None:
        if converses(job.request):
            job.turn = self.conversations.next(job.request, job.options)
            job.slots = job.turn.slots if job.turn is not None else []
        for slot in job.slots:
            there = self.publisher.repeat(job.request, slot) if job.turn is None else job.turn.has(slot)
            if there:  # an earlier holder of this message sampled it
                continue
            name = self.engine.admit(slot.spec, job.options)
            job.open.add(name)
            self._rows[name] = (job, slot)
        self.running.set(len(self._rows))

    def _step(self) -> None:
        for name, sample in self.engine.step():
            job, slot = self._rows.pop(name)
            job.open.discard(name)
            self._space.note(job, len(sample.response_ids_T))
            with self._failing(job):
                if job.turn is None:
                    self.publisher.publish(job.request, slot, sample)
                else:
                    self.conversations.store(job.request, job.turn, slot, sample)
        self.running.set(len(self._rows))

    def _settle(self) -> None:
        """Say of requests that they have ended: at once, or when the engine sleeps."""
        ended = [job for job in self._working if not job.open]
        if not ended or (self.sleeps and (self._rows or self._waiting)):
            return
        if self.sleeps:
            self.engine.sleep()
            self._awake = False
        self._working = [job for job in self._working if job.open]
        for job in ended:
            with self._failing(job):
                outcome = Outcome()
                if job.turn is not None and job.error is None:
                    outcome = self.conversations.after(job.request, job.turn)
            if job.error is None:
                job.future.set_result(outcome)
            else:
                job.future.set_exception(job.error)

    def _wake(self) -> None:
        if not self._awake:
            self.engine.wake()
            self._awake = True

    @contextmanager
    def _failing(self, job: Job) -> Iterator[None]:
        """Within it, an error of one request ends that request alone: its other rows leave the engine."""
        try:
            yield
        except (RgopdError, RedisError) as error:
            self.engine.drop(job.open)
            for name in job.open:
                self._rows.pop(name, None)
            job.open.clear()
            job.error = error

    def _fail_all(self, error: RgopdError | RedisError) -> None:
        """The engine failed: every request goes back, to this sampler's successor perhaps."""
        log.warning("all requests in work are given back: %s", error)
        self.policy.loaded_sha = ""
        self._rows.clear()
        with self._news:
            jobs, self._working = [*self._working, *self._waiting], []
            self._waiting.clear()
        for job in jobs:
            job.future.set_exception(error)
