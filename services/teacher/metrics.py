"""Prometheus metrics of the teacher."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_FILL = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class TeacherMetrics:
    """One object per service, on the registry that /metrics shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter("rgopd_teacher_tokens", "Prompt and response ids scored", registry=registry)
        self.rollouts = Counter("rgopd_teacher_rollouts", "Rollouts by outcome", ["outcome"], registry=registry)
        self.rejected = Counter("rgopd_teacher_rejected", "Calls refused, by kind", ["kind"], registry=registry)
        self.errors = Counter("rgopd_teacher_engine_errors", "Failed forwards, by kind", ["kind"], registry=registry)
        self.cache = Counter("rgopd_teacher_cache", "Score cache look-ups", ["result"], registry=registry)
        self.queue_tokens = Gauge("rgopd_teacher_queue_tokens", "Tokens waiting for the engine", registry=registry)
        self.running_tokens = Gauge("rgopd_teacher_running_tokens", "Tokens in the engine", registry=registry)
        self.gpu_bytes = Gauge("rgopd_teacher_gpu_bytes", "GPU memory held by the engine", registry=registry)
        self.wait = Histogram("rgopd_teacher_wait_seconds", "Queued to taken", buckets=_SECONDS, registry=registry)
        self.service = Histogram(
            "rgopd_teacher_service_seconds", "One engine call", buckets=_SECONDS, registry=registry
        )
        self.fill = Histogram(
            "rgopd_teacher_batch_fill", "Tokens of a batch over its budget", buckets=_FILL, registry=registry
        )
