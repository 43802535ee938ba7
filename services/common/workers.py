"""A service's stream door where a run has several servers: one worker for each server that holds the stream."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry

from rgopd.common.streams import Streams
from rgopd.common.worker import GiveUp, StreamWorker, Submit, WorkerMetrics


class StreamWorkers:
    """Takes what `StreamWorker` takes. Each worker holds up to `max_inflight` messages."""

    def __init__(
        self,
        streams: Streams,
        stream: str,
        submit: Submit,
        give_up: GiveUp,
        *,
        registry: CollectorRegistry | None = None,
        stage: str = "",
        **options: Any,
    ) -> None:
        metrics = WorkerMetrics(registry or CollectorRegistry(), stage or stream)
        self.workers = [
            StreamWorker(part, stream, submit, give_up, stage=stage, metrics=metrics, **options)
            for part in streams.parts_of(stream)
        ]

    def start(self) -> None:
        """See `StreamWorker`."""
        for worker in self.workers:
            worker.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """See `StreamWorker`; none takes anything new while another drains."""
        for worker in self.workers:
            worker.stop_reading()
        deadline = time.monotonic() + drain_s
        for worker in self.workers:
            worker.stop(max(0.0, deadline - time.monotonic()))

    @property
    def inflight(self) -> int:
        """Messages leased and not finished."""
        return sum(worker.inflight for worker in self.workers)
