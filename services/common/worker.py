"""A service's stream door: lease messages, hand them to the engine, store results, acknowledge.

Three threads, so that none waits for another: the *reader* leases and submits, the *finisher* stores results and
acknowledges, the *heartbeat* renews the leases of everything in flight. Stop order: stop reading, keep the
heartbeat, let what is in flight finish, give the rest back, then leave.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from redis.exceptions import RedisError

from rgopd.common import wire
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import Malformed, Overloaded, RgopdError, StoreDown, TooLarge, Unavailable
from rgopd.common.stage import stage_failed
from rgopd.common.streams import ENVIRONMENT, GENERATE, SCORE, VERIFY, Streams

log = logging.getLogger(__name__)

Submit = Callable[[Delivery], "Future[Outcome]"]
GiveUp = Callable[[Delivery, str, str], Outcome]
"""(delivery, kind, reason) -> what to tell those who wait for a message that is being dead-lettered."""


SUSPECT_AFTER = 2
"""A message of which this many holders died is handled alone: if it kills, it takes no other's attempt with it."""

MAX_EXCUSES = 100
"""A message that is given back for ever (a policy version that never comes) ends as a dead letter all the same."""

DEADLINES_S = {GENERATE: 3600.0, VERIFY: 600.0, SCORE: 1800.0, ENVIRONMENT: 1800.0}
"""How long a lease is renewed. Slow is not dead, but a handler that hangs must not hold a message for ever. The clock
starts again with every other message that this worker ends, `MAX_RESTARTS` times this long at most."""

MAX_RESTARTS = 9

Deadline = Callable[[Delivery], float]
"""A message's own deadline in seconds, e.g. by its tokens."""


class AttemptsSpent(RgopdError):
    """A message failed `max_attempts` times, or was delivered `max_deliveries` times and never finished."""

    retryable = False
    kind = "max_attempts"


def announce_failure(message_type: type[Message], stage: str) -> GiveUp:
    """The usual `give_up`: a StageDone with the failure on `results`, so that the join never waits in vain."""

    def give_up(delivery: Delivery, kind: str, reason: str) -> Outcome:
        try:
            job: Any = wire.parse(message_type, delivery.payload)
        except Malformed:
            return Outcome()  # nobody's message: it stays readable among the dead letters
        group_id = getattr(job, "group_id", "")
        failed = stage_failed(job.header, stage, group_id, kind=kind, reason=reason, attempts=delivery.attempt)
        return Outcome(announce=[failed])

    return give_up


class StreamWorker:
    """Consumes one stream.

    Args:
        streams: the run's streams.
        stream: which one.
        submit: starts the work and returns its future. May raise `Overloaded` (the message is held and tried
            again); any other error counts as a failed attempt.
        give_up: makes the announcement for a dead letter.
        consumer: a name that no other live worker uses.
        max_inflight: how many messages may be leased at once.
        room: how many more the engine would begin at once, where it alone can tell; asked before every read.
        registry: where the metrics go.
        deadline_s: after this long without progress a message is given back as failed, though its handler may still
            run: a number for all, or by message; the stage's own (`DEADLINES_S`) by default.
        stage: what the deadline and the metrics go by; the stream's name unless a stage has several streams.
        metrics: shared with other workers of the stage; else its own, in `registry`.
    """

    def __init__(
        self,
        streams: Streams,
        stream: str,
        submit: Submit,
        give_up: GiveUp,
        *,
        consumer: str,
        max_inflight: int = 64,
        room: Callable[[], int] | None = None,
        registry: CollectorRegistry | None = None,
        deadline_s: float | Deadline | None = None,
        stage: str = "",
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self.streams = streams
        self.stream = stream
        self.submit = submit
        self.give_up = give_up
        self.consumer = consumer
        self.max_inflight = max_inflight
        self.room = room
        stage = stage or stream
        self.deadline_s = deadline_s or DEADLINES_S.get(stage, 3600.0)
        self._limits: dict[str, float] = {}
        self._last_end = 0.0
        self._inflight: dict[str, Delivery] = {}
        self._since: dict[str, float] = {}
        self._suspects: list[Delivery] = []
        self._alone = ""
        self._lock = threading.Lock()
        self._done: queue.SimpleQueue[tuple[Delivery, Future[Outcome], float] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._metrics = metrics or WorkerMetrics(registry or CollectorRegistry(), stage)

    def start(self) -> None:
        """Create the group and start the threads."""
        self.streams.ensure(self.stream)
        self.streams.forget_idle(self.stream)
        for name, target in (("reader", self._read), ("finisher", self._finish), ("heartbeat", self._heartbeat)):
            thread = threading.Thread(target=target, name=f"{self.stream}-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop_reading(self) -> None:
        """Lease nothing more."""
        self._stopping.set()

    def stop(self, drain_s: float = 30.0) -> None:
        """Stop reading, wait up to `drain_s` seconds for what is in flight, give the rest back."""
        self._stopping.set()
        self.streams.hurry()
        deadline = time.monotonic() + drain_s
        while self._inflight and time.monotonic() < deadline:
            time.sleep(0.02)
        self._closed.set()
        self._done.put(None)
        for thread in self._threads:
            thread.join(timeout=5)
        try:
            for delivery in list(self._inflight.values()):
                self.streams.release(self.stream, self.consumer, delivery, "its worker shut down", failed=False)
            self.streams.forget_consumer(self.stream, self.consumer)
        except RedisError as error:  # the leases run out by themselves
            log.warning("could not give leases back: %s", error)

    @property
    def inflight(self) -> int:
        """Messages leased and not finished."""
        return len(self._inflight)

    def _read(self) -> None:
        next_reclaim = 0.0
        backoff = 0.05
        while not self._stopping.is_set():
            room = self.max_inflight - len(self._inflight)
            if self.room is not None:
                room = min(room, self.room())
            if room <= 0 or self._alone in self._inflight:
                time.sleep(0.002)
                continue
            if self._suspects:
                self._start_suspect()
                continue
            deliveries: list[Delivery] = []
            try:
                if time.monotonic() >= next_reclaim:
                    deliveries = self.streams.reclaim(self.stream, self.consumer, count=room)
                    next_reclaim = time.monotonic() + min(5.0, self.streams.lease_ms / 3000)
                if not deliveries:
                    deliveries = self.streams.read(self.stream, self.consumer, count=room, block_ms=200)
                backoff = 0.05
            except RedisError as error:  # outermost loop: the server may be back in a moment
                log.warning("stream %s: %s; retrying in %.2f s", self.stream, error, backoff)
                self._stopping.wait(backoff)
                backoff = min(2.0, backoff * 2)
            self._take(deliveries)

    def _take(self, deliveries: list[Delivery]) -> None:
        now = time.monotonic()
        with self._lock:  # all are leased now, so all are renewed while the first ones are submitted
            # A heartbeat that came too late, on a machine that was starved or asleep: what it still does is its own.
            deliveries = [d for d in deliveries if d.id not in self._inflight]
            self._inflight.update({d.id: d for d in deliveries})
            self._since.update({d.id: now for d in deliveries})
            self._limits.update({d.id: self._limit(d) for d in deliveries})
        for delivery in deliveries:
            if delivery.orphaned >= SUSPECT_AFTER:
                self._suspects.append(delivery)
            else:
                self._start_one(delivery)

    def _start_suspect(self) -> None:
        if len(self._inflight) > len(self._suspects):  # others still run beside it
            time.sleep(0.002)
            return
        suspect = self._suspects.pop(0)
        self._alone = suspect.id
        log.warning("message %s lost %d holders: handled alone", suspect.id, suspect.orphaned)
        self._start_one(suspect)

    def _start_one(self, delivery: Delivery) -> None:
        started = time.monotonic()
        spared = min(delivery.excused, MAX_EXCUSES)
        if delivery.attempt - spared > self.streams.max_deliveries:
            spent: Future[Outcome] = Future()
            spent.set_exception(AttemptsSpent())
            self._done.put((delivery, spent, started))
            return
        while True:
            try:
                future = self.submit(delivery)
                break
            except Overloaded as full:
                if self._stopping.wait(min(full.retry_after, 0.05)):
                    return  # stays in flight; stop() gives it back
                with self._lock:
                    self._since[delivery.id] = started = time.monotonic()  # the clock starts with the work
            except Exception as error:  # noqa: BLE001 - a worker's outermost loop: one bad message, not the worker
                future = Future()
                future.set_exception(error)
                break
        future.add_done_callback(lambda done: self._done.put((delivery, done, started)))

    def _finish(self) -> None:
        while (item := self._done.get()) is not None:
            delivery, future, started = item
            backoff = 0.05
            while True:
                try:
                    self._settle(delivery, future)
                    break
                except (RedisError, StoreDown) as error:
                    if self._closed.is_set():
                        return
                    log.warning("stream %s: cannot store a result: %s", self.stream, error)
                    self._closed.wait(backoff)
                    backoff = min(2.0, backoff * 2)
            self._metrics.seconds.observe(time.monotonic() - started)
            self._metrics.holds(self, len(self._inflight))

    def _settle(self, delivery: Delivery, future: Future[Outcome]) -> None:
        with self._lock:
            given_back = delivery.id not in self._inflight
        if given_back:  # over its deadline; a late result is still a result
            if not future.cancelled() and future.exception() is None:
                self.streams.complete(delivery, future.result())
            return
        if future.cancelled():
            self._retry(delivery, "cancelled", failed=False)
            return
        error = future.exception()
        if error is None:
            try:
                self.streams.complete(delivery, future.result())
            except TooLarge as too_large:
                self._dead(delivery, too_large.kind, str(too_large))
                return
            self._drop(delivery, "done")
        elif isinstance(error, AttemptsSpent):
            last = self.streams.last_reason(delivery)
            self._dead(delivery, error.kind, f"gave up after {delivery.attempt - 1} deliveries: {last}")
        elif isinstance(error, RgopdError) and not error.retryable:
            self._dead(delivery, error.kind, str(error))
        else:
            log.warning("attempt %d failed", delivery.attempt, exc_info=error, extra={"stream": self.stream})
            # Redis away, or a policy not there yet: not this message's fault, so not one of its attempts.
            blameless = isinstance(error, RedisError | Unavailable)
            self._retry(delivery, f"{type(error).__name__}: {error}", failed=not blameless)

    def _retry(self, delivery: Delivery, reason: str, *, failed: bool) -> None:
        failures = delivery.failures + failed
        if failures >= self.streams.max_attempts:
            self._dead(delivery, AttemptsSpent.kind, f"gave up after {failures} failed attempts: {reason}")
            return
        self.streams.release(self.stream, self.consumer, delivery, reason, failed=failed)
        self._drop(delivery, "retried")

    def _dead(self, delivery: Delivery, kind: str, reason: str) -> None:
        log.error("dead letter: %s", reason, extra={"stream": self.stream, "kind": kind})
        self.streams.dead_letter(delivery, reason, self.give_up(delivery, kind, reason))
        self._drop(delivery, "dead")

    def _drop(self, delivery: Delivery, outcome: str) -> None:
        with self._lock:
            self._inflight.pop(delivery.id, None)
            self._since.pop(delivery.id, None)
            self._limits.pop(delivery.id, None)
            self._last_end = time.monotonic()
            if self._alone == delivery.id:
                self._alone = ""
        self._metrics.messages.labels(outcome).inc()

    def _limit(self, delivery: Delivery) -> float:
        return self.deadline_s(delivery) if callable(self.deadline_s) else self.deadline_s

    def _is_late(self, message_id: str, now: float) -> bool:
        """Nothing times out while its worker gets on: what was leased first may wait behind what was leased with it."""
        since, limit_s = self._since[message_id], self._limits[message_id]
        return now - max(since, min(self._last_end, since + MAX_RESTARTS * limit_s)) > limit_s

    def _heartbeat(self) -> None:
        # A third of the lease: two renewals may fail before the message is taken over.
        while not self._closed.wait(self.streams.lease_ms / 3000):
            now = time.monotonic()
            with self._lock:
                ids = set(self._inflight)
                late = [(self._inflight[i], self._limits[i]) for i in ids if self._is_late(i, now)]
            try:
                for delivery, limit_s in late:
                    self._retry(delivery, f"no result within its deadline of {limit_s:.0f} s", failed=True)
                    ids.discard(delivery.id)
                lost = ids - self.streams.renew(self.stream, self.consumer, ids)
            except RedisError as error:
                log.warning("stream %s: cannot renew leases: %s", self.stream, error)
                continue
            with self._lock:
                lost &= set(self._inflight)
            if lost:  # its result is still stored if it comes first; the other holder's is the same
                self._metrics.lost.inc(len(lost))
                log.warning("stream %s: %d leases were taken over", self.stream, len(lost))


class WorkerMetrics:
    """Prometheus metrics of one stream worker."""

    def __init__(self, registry: CollectorRegistry, stage: str) -> None:
        prefix = f"rgopd_{stage}"
        self.messages = Counter(f"{prefix}_messages", "Messages by outcome", ["outcome"], registry=registry)
        self.lost = Counter(f"{prefix}_leases_lost", "Leases taken over by another worker", registry=registry)
        self.inflight = Gauge(f"{prefix}_inflight", "Messages leased and unfinished", registry=registry)
        self.seconds = Histogram(f"{prefix}_seconds", "From lease to stored result", registry=registry)
        self._held: dict[int, int] = {}

    def holds(self, worker: object, count: int) -> None:
        """How many messages one of the workers holds now."""
        self._held[id(worker)] = count
        self.inflight.set(sum(self._held.values()))
