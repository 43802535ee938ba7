"""OpenTelemetry spans of a rollout's way through the teacher.

Only the API is used: without an SDK (`opentelemetry-instrument rgopd teacher …` brings one, set up by the usual
OTEL_* variables) every call here does nothing. Parents come as W3C traceparent, in the HTTP header or in a
message's `trace_id`.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()


def parent_from(traceparent: str) -> Context | None:
    """The caller's span; None when there is none."""
    return _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None


class Tracer:
    """Spans `teacher.wait` and `teacher.score`, made afterwards from the times that the service measured anyway."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("rgopd.teacher")

    def rollout(
        self, parent: Context | None, rollout_id: str, tokens: int, times_s: tuple[float, float, float], error: str = ""
    ) -> None:
        """Record one rollout: queued, taken and answered at these seconds since the epoch."""
        queued, taken, answered = (int(t * 1e9) for t in times_s)
        attributes: dict[str, str | int] = {"rgopd.rollout_id": rollout_id, "rgopd.tokens": tokens}
        self._tracer.start_span("teacher.wait", parent, attributes=attributes, start_time=queued).end(taken)
        span = self._tracer.start_span("teacher.score", parent, attributes=attributes, start_time=taken)
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(answered)
