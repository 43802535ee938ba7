"""Prometheus metrics of a run, from rank 0: what seed, data and clock decided of the newest step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, start_http_server

from rgopd.common.errors import ConfigError
from rgopd.common.run_files import Warn

log = logging.getLogger(__name__)

_SIGNS = ("positive", "zero", "negative")
_STAGES = ("sampling", "verifying", "scoring", "train", "publish")


class TrainerMetrics:
    """Set from the rows of metrics.jsonl and timings.jsonl (docs/run-folder.md), which have the same names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"rgopd_trainer_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"rgopd_trainer_{name}", text, labels, registry=registry)

        self.step = gauge("step", "Steps taken")
        self.steps = gauge("steps_planned", "Steps that the run will take")
        self.plain = {
            "loss": gauge("loss", "Gated loss, Eq. 3"),
            "grad_norm": gauge("grad_norm", "Gradient norm before clipping"),
            "lr": gauge("learning_rate", "Learning rate"),
            "reward_mean": gauge("reward_mean", "Mean reward"),
            "pass_rate": gauge("pass_rate", "Passed of those judged"),
            "entropy": gauge("entropy_nats", "Entropy of the student, nats a token"),
            "response_length_mean": gauge("response_length_mean", "Mean response, tokens"),
            "truncated_fraction": gauge("truncated_fraction", "Share of responses cut at max_new_tokens"),
            "kept_fraction": gauge("kept_fraction", "Share of tokens that the gate keeps"),
            "behaviour_drift": gauge("behaviour_drift_nats", "Mean distance of student and behaviour policy"),
            "importance_effective_fraction": gauge("importance_effective_fraction", "Effective share of tokens"),
        }
        self.kept = gauge("kept_fraction_by_sign", "Share of tokens kept, by the sign of the advantage", "sign")
        self.gap = gauge("teacher_gap_nats", "Mean log pi_T - log pi_theta a token, by the sign", "sign")
        self.verdicts = counter("verdicts", "Verdicts of rollouts asked for", "status")
        self.failures = counter("stage_failures", "Rollouts that a stage gave up", "stage")
        self.skipped = counter("skipped_steps", "Steps that left the weights unchanged")
        self.redrawn = counter("redrawn_groups", "Groups drawn again")
        self.dropped = counter("dropped_groups", "Groups given up")
        self.tokens = counter("tokens", "Response tokens of finished steps")
        self.seconds = counter("seconds", "Seconds of finished steps, by the stage that was waited for", "stage")
        self.step_seconds = gauge("step_seconds", "Seconds of the newest step")
        self.tokens_per_s = gauge("tokens_per_second", "Response tokens a second, newest step")
        self.accuracy = gauge("eval_accuracy", "Greedy accuracy of the newest evaluation")
        self.problems = gauge("eval_problems", "Problems of the newest evaluation")
        self.gpu_bytes = gauge("gpu_bytes", "Peak of the device's allocator")
        self.backlog = gauge("queue_backlog", "Unfinished messages at the end of the newest step", "stream")
        self.leased = gauge("queue_leased", "Those of them that a worker holds", "stream")
        self.warning = gauge("warning", "1 while a warning is in force", "kind")

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl."""
        if row["event"] == "eval":
            self.accuracy.set(row["accuracy"])
            self.problems.set(row["problems"])
        if row["event"] != "step":
            return
        self.step.set(row["step"] + 1)
        for key, figure in self.plain.items():
            figure.set(row[key])
        for sign in _SIGNS:
            self.kept.labels(sign).set(row[f"kept_fraction_{sign}"])
            self.gap.labels(sign).set(row[f"teacher_gap_{sign}"])
        for status, count in row["verdicts"].items():
            self.verdicts.labels(status).inc(count)
        for stage, count in row["stage_failures"].items():
            self.failures.labels(stage).inc(count)
        self.skipped.inc(row["skipped"])
        self.redrawn.inc(row["redrawn_groups"])
        self.dropped.inc(row["dropped_groups"])
        self.tokens.inc(row["response_tokens"])

    def timing(self, row: Mapping[str, Any]) -> None:
        """A step's row of timings.jsonl."""
        for stage in _STAGES:
            self.seconds.labels(stage).inc(row.get(f"{stage}_s", 0.0))
        self.step_seconds.set(row["seconds"])
        self.tokens_per_s.set(row["tokens_per_s"])
        self.gpu_bytes.set(row["gpu_bytes"])

    def queues(self, depths: Mapping[str, Mapping[str, int]]) -> None:
        """Backlog and leased messages by stream."""
        for stream, depth in depths.items():
            self.backlog.labels(stream).set(depth["backlog"])
            self.leased.labels(stream).set(depth["leased"])

    def warnings(self, found: Sequence[Warn], over: Sequence[str] = ()) -> None:
        """Those in force, and kinds that no longer are."""
        for kind in over:
            self.warning.labels(kind).set(0)
        for warn in found:
            self.warning.labels(warn.kind).set(1)


def serve_metrics(host: str, port: int) -> TrainerMetrics:
    """Start a thread that answers /metrics; they end with the process.

    Raises:
        ConfigError: the port is taken.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = TrainerMetrics(registry)
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"watch.metrics_port={port}: cannot listen on {host}: {error}; name a free port, or 0 for none"
        ) from error
    log.info("metrics", extra={"url": f"http://{host}:{port}/metrics"})
    return metrics
