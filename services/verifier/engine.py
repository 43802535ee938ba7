"""The engine behind both doors: admission, lanes, cache. Thread-based and bounded."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rgopd.common.errors import InvalidInput, Overloaded, TooLarge, Unavailable
from rgopd.verifier.cache import VerdictCache, content_key
from rgopd.verifier.graders import Registry
from rgopd.verifier.graders.base import Grader, Lane
from rgopd.verifier.schemas import Item
from rgopd.verifier.spec import OnTruncated, Spec
from rgopd.verifier.tools import Tools
from rgopd.verifier.verdict import Verdict, error, failed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    key: bytes
    item: Item
    grader: Grader[Any]
    spec: Spec


class VerifierEngine:
    """Judges items in threads, one set of threads a lane.

    Args:
        registry: the graders.
        tools: sandbox and math workers; closed by `close`.
        queue_size: items accepted and not finished, over all lanes.
        cache_size: verdicts kept.
        truncated: what items marked as cut at the length limit get, unless they say otherwise.
        metrics: where the Prometheus metrics go.
    """

    def __init__(
        self,
        registry: Registry,
        tools: Tools,
        *,
        queue_size: int = 4096,
        cache_size: int = 10_000,
        truncated: OnTruncated = "grade",
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self.registry = registry
        self.tools = tools
        self.queue_size = queue_size
        self.truncated = truncated
        self.cache = VerdictCache(cache_size)
        self._metrics = EngineMetrics(metrics or CollectorRegistry())
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._pending = 0
        self._rate = 50.0  # verdicts a second, smoothed; for Retry-After
        self._draining = False
        self._queues: dict[Lane, queue.SimpleQueue[_Task | None]] = {lane: queue.SimpleQueue() for lane in Lane}
        sizes = {Lane.inline: 1, Lane.symbolic: tools.symbolic.size, Lane.sandbox: tools.sandbox.size}
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"{lane}-{i}", daemon=True)
            for lane, size in sizes.items()
            for i in range(size)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Items accepted and not finished."""
        return self._pending

    def submit(self, item: Item) -> Future[Verdict]:
        """Start one item.

        Raises:
            InvalidInput: unknown kind or fields that do not fit; nothing was started.
            Overloaded: the queue is full.
            Unavailable: draining.
        """
        return self.submit_many([item])[0]

    def submit_many(self, items: Sequence[Item]) -> list[Future[Verdict]]:
        """Start all items or none of them; the errors of `submit`."""
        self._refuse_if_full(len(items))  # before the work of looking at them: a full service must be quick to say so
        prepared = [self._prepare(item) for item in items]
        self._admit(len(items))
        futures: list[Future[Verdict]] = []
        for task in prepared:
            future: Future[Verdict] = Future()
            future.add_done_callback(self._finished)
            futures.append(future)
            if self.cache.join(task.key, task.item.id, future):
                self._queues[task.grader.lane_of(task.spec)].put(task)
        self._metrics.cached.set(len(self.cache))
        return futures

    def check(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge and wait; verdicts in the order of the items."""
        return [future.result() for future in self.submit_many(items)]

    def drain(self, timeout_s: float) -> bool:
        """Refuse new items and wait for those accepted; False when some are left."""
        with self._idle:
            self._draining = True
            return self._idle.wait_for(lambda: self._pending == 0, timeout=timeout_s)

    def close(self) -> None:
        """Stop the threads, then the processes."""
        for lane, tasks in self._queues.items():
            for thread in self._threads:
                if thread.name.startswith(lane):
                    tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=60)
        self.tools.sandbox.close()
        self.tools.symbolic.close()

    def _prepare(self, item: Item) -> _Task:
        try:
            grader = self.registry.get(item.kind)
            spec = grader.prepare(item.fields)
        except InvalidInput as problem:
            raise InvalidInput(f"item {item.id!r}: {problem}") from problem
        return _Task(content_key(item), item, grader, spec)

    def _admit(self, count: int) -> None:
        with self._lock:
            self._refuse_if_full(count)
            self._pending += count
        self._metrics.pending.set(self._pending)

    def _refuse_if_full(self, count: int) -> None:
        if self._draining:
            raise Unavailable("draining: this replica is shutting down, send the request to another one")
        if count > self.queue_size:
            raise TooLarge(f"{count} items are more than the queue holds ({self.queue_size}); send fewer a call")
        if self._pending + count > self.queue_size:
            self._metrics.refused.inc(count)
            wait = (self._pending + count - self.queue_size) / max(1.0, self._rate)
            raise Overloaded(f"{self._pending} items are waiting", retry_after=min(30.0, max(1.0, wait)))

    def _finished(self, _: Future[Verdict]) -> None:
        with self._idle:
            self._pending -= 1
            if self._pending == 0:
                self._idle.notify_all()

    def _work(self, lane: Lane) -> None:
        tasks = self._queues[lane]
        while (task := tasks.get()) is not None:
            began = time.monotonic()
            try:
                verdict = self._judge(task)
            except Exception as problem:
                log.exception("grader %s failed", task.item.kind, extra={"item_id": task.item.id})
                verdict = error(f"internal: {type(problem).__name__}")
            took = time.monotonic() - began
            self._metrics.seconds.labels(task.item.kind).observe(took)
            self._metrics.verdicts.labels(task.item.kind, verdict.status.value).inc()
            self._metrics.pending.set(self._pending)
            self._rate += 0.02 * (len(self._threads) / max(took, 1e-4) - self._rate)
            self.cache.settle(task.key, verdict.but(duration_ms=1000 * took))

    def _judge(self, task: _Task) -> Verdict:
        if task.spec.truncated:
            treatment = task.spec.on_truncated or self.truncated
            if treatment != "grade":
                reason = "truncated: the response was cut at the length limit"
                return failed(reason) if treatment == "failed" else error(reason)
        return task.grader.grade(task.item.response, task.spec, self.tools)


class EngineMetrics:
    """Prometheus metrics of the engine."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.verdicts = Counter("rgopd_verdicts", "Verdicts by kind and status", ["kind", "status"], registry=registry)
        self.seconds = Histogram("rgopd_verdict_seconds", "From start to verdict", ["kind"], registry=registry)
        self.pending = Gauge("rgopd_verifier_pending", "Items accepted and not finished", registry=registry)
        self.refused = Counter("rgopd_verifier_refused", "Items answered 429", registry=registry)
        self.cached = Gauge("rgopd_verifier_cached", "Verdicts in the cache", registry=registry)
