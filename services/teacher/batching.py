"""The teacher behind both doors: admission, fair batches, the engine's threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from rgopd.common.errors import RgopdError, Unavailable
from rgopd.teacher.alignment import Aligner
from rgopd.teacher.cache import ScoreCache
from rgopd.teacher.engines import Engine, EngineFault, EngineInfo, SomeFailed
from rgopd.teacher.items import Score, ScoreItem
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.queueing import Entry, TokenQueue
from rgopd.teacher.tracing import Tracer, parent_from

log = logging.getLogger(__name__)


class TeacherService:
    """Scores checked items. `submit` may be called from any thread.

    Args:
        engine: does the forwards; closed by `close`.
        metrics: where counts go.
        max_batch_tokens: tokens handed to the engine at once.
        max_queue_tokens: tokens admitted and unfinished; beyond it `submit` raises `Overloaded`.
        cache: scores of earlier calls, or None.
        aligner: set where the student has another tokenizer; the doors then make their items with it.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: TeacherMetrics,
        *,
        max_batch_tokens: int,
        max_queue_tokens: int,
        cache: ScoreCache | None = None,
        aligner: Aligner | None = None,
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self.aligner = aligner
        self._cache = cache if engine.info.cacheable else None
        self._tracer = Tracer()
        self._budget = max_batch_tokens
        self._queue = TokenQueue(max_queue_tokens)
        self._changed = threading.Condition()
        self._draining = False
        self._closed = False
        self._tokens_per_s = 0.0
        self._begun: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._run, name=f"teacher-batch-{n}", daemon=True)
            for n in range(engine.concurrency)
        ]

    @property
    def info(self) -> EngineInfo:
        """The engine's, for checking requests."""
        return self.engine.info

    def start(self) -> None:
        """Start the batching threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, items: Sequence[ScoreItem], traceparent: str = "") -> list[Future[Score]]:
        """Queue the items of one call, all or none; one future each. Cancelling a future frees its place.

        Raises:
            Overloaded: full; its `retry_after` is the time the backlog needs at the present speed.
            TooLarge: more tokens than the service ever admits at once.
            Unavailable: draining.
        """
        futures = self._cached(items)
        missing = [n for n, future in enumerate(futures) if future is None]
        admitted = self._admit([items[n] for n in missing], traceparent) if missing else []
        for n, entry in zip(missing, admitted, strict=True):
            futures[n] = entry.future
        return [future for future in futures if future is not None]

    def _cached(self, items: Sequence[ScoreItem]) -> list[Future[Score] | None]:
        """A finished future for each item whose score is known."""
        if self._cache is None:
            return [None] * len(items)
        futures: list[Future[Score] | None] = []
        for score in self._cache.get_many(items, self.info):
            self.metrics.cache.labels("miss" if score is None else "hit").inc()
            future: Future[Score] | None = None
            if score is not None:
                future = Future()
                future.set_result(score)
            futures.append(future)
        return futures

    def _admit(self, items: list[ScoreItem], traceparent: str) -> list[Entry]:
        with self._changed:
            if self._draining:
                raise Unavailable("draining: this replica is shutting down, send the request to another one")
            try:
                entries = self._queue.admit(items, self._retry_after(), parent_from(traceparent))
            except RgopdError as error:
                self.metrics.rejected.labels(error.kind).inc()
                raise
            self._observe_queue()
            self._changed.notify()
        for entry in entries:
            entry.future.add_done_callback(lambda _, entry=entry: self._release(entry))  # type: ignore[misc]
        return entries

    def drain(self, timeout_s: float) -> bool:
        """Refuse new work and wait for what is admitted; False when `timeout_s` passed first."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._queue.outstanding == 0, timeout_s)

    def in_work_s(self) -> float:
        """How long the engine has had the batch that it has had longest, in seconds; 0 without any."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def close(self, patience_s: float = 60.0) -> None:
        """Stop the threads after their present batch and free the engine; what still waits is cancelled.

        patience_s: for a batch that does not end; its engine is then left as it is.
        """
        with self._changed:
            self._draining = self._closed = True
            waiting = self._queue.take_all()
            self._changed.notify_all()
        for entry in waiting:
            entry.future.cancel()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self.engine.close()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            live = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if live:
                me = threading.get_ident()
                self._begun[me] = time.monotonic()
                self._score(live)
                self._begun.pop(me)

    def _next_batch(self) -> list[Entry] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queue.waiting > 0)
            if self._closed:
                return None
            batch = self._queue.take(self._budget)
            self._observe_queue()
            return batch

    def _score(self, batch: list[Entry]) -> None:
        started = time.time()
        for entry in batch:
            self.metrics.wait.observe(max(0.0, started - entry.queued_at))
        tokens = sum(entry.item.tokens for entry in batch)
        self.metrics.fill.observe(min(1.0, tokens / self._budget))
        info = self.info
        try:
            scores = self.engine.score([entry.item for entry in batch])
        except SomeFailed as error:
            self._failed_each(batch, error, started)
            return
        except Exception as error:  # noqa: BLE001 - the thread's outermost loop: the call fails, the service stays
            self._failed(batch, error, started)
            return
        seconds = time.time() - started
        self.metrics.service.observe(seconds)
        self.metrics.tokens.inc(tokens)
        self.metrics.rollouts.labels("scored").inc(len(batch))
        rate = tokens / max(seconds, 1e-6)
        self._tokens_per_s = 0.8 * self._tokens_per_s + 0.2 * rate if self._tokens_per_s else rate
        for entry, score in zip(batch, scores, strict=True):
            self._trace(entry, started)
            entry.future.set_result(score)
        if self._cache is not None and info == self.info:  # after the answers, which do not wait for it
            self._cache.put_many([entry.item for entry in batch], scores, info)

    def _failed(self, batch: list[Entry], error: Exception, started: float) -> None:
        """One bad rollout must not fail its neighbours: each gets another try on its own."""
        fault = error if isinstance(error, RgopdError) else EngineFault(f"{type(error).__name__}: {error}")
        fault.__cause__ = None if fault is error else error
        self.metrics.errors.labels(fault.kind).inc()
        if len(batch) > 1:
            log.warning("a batch of %d failed, scoring one by one: %s", len(batch), fault)
            for entry in batch:
                self._score([entry])
            return
        log.error("engine failed", exc_info=error, extra={"rollout_id": batch[0].item.id})
        self.metrics.rollouts.labels("failed").inc()
        self._trace(batch[0], started, fault.kind)
        batch[0].future.set_exception(fault)

    def _failed_each(self, batch: list[Entry], error: SomeFailed, started: float) -> None:
        """The engine has said of each rollout what became of it."""
        log.error("engine failed: %s", error)
        scored: list[tuple[ScoreItem, Score]] = []
        for entry, result in zip(batch, error.results, strict=True):
            if isinstance(result, RgopdError):
                self.metrics.errors.labels(result.kind).inc()
                self._trace(entry, started, result.kind)
                entry.future.set_exception(result)
                continue
            self._trace(entry, started)
            entry.future.set_result(result)
            scored.append((entry.item, result))
        self.metrics.rollouts.labels("failed").inc(len(batch) - len(scored))
        self.metrics.rollouts.labels("scored").inc(len(scored))
        self.metrics.tokens.inc(sum(item.tokens for item, _ in scored))
        if self._cache is not None and scored:
            self._cache.put_many([item for item, _ in scored], [score for _, score in scored], self.info)

    def _trace(self, entry: Entry, started: float, error: str = "") -> None:
        times = (entry.queued_at, started, time.time())
        self._tracer.rollout(entry.parent, entry.item.id, entry.item.tokens, times, error)

    def _release(self, entry: Entry) -> None:
        with self._changed:
            self._queue.release(entry)
            self._observe_queue()
            self._changed.notify_all()

    def _observe_queue(self) -> None:
        self.metrics.queue_tokens.set(self._queue.waiting)
        self.metrics.running_tokens.set(self._queue.outstanding - self._queue.waiting)

    def _retry_after(self) -> float:
        rate = self._tokens_per_s
        return min(60.0, max(1.0, self._queue.outstanding / rate)) if rate else 1.0
