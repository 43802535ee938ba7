"""A run's Prometheus metrics, scraped over HTTP as Prometheus does."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rgopd.common.embedded import free_port
from rgopd.common.errors import ConfigError
from rgopd.trainer.records.live import Live
from rgopd.trainer.records.prometheus import serve_metrics


def step_row(step: int, **changed: Any) -> dict[str, Any]:
    signs = ("positive", "zero", "negative")
    halves = ("grad_norm", "lr", "reward_mean", "pass_rate", "response_length_mean", "truncated_fraction")
    plain = dict.fromkeys((*halves, "kept_fraction"), 0.5)
    return {
        "event": "step",
        "step": step,
        "loss": 0.25,
        "entropy": 0.1,
        "behaviour_drift": 0.0,
        "importance_effective_fraction": 1.0,
        "verdicts": {"passed": 3, "failed": 4, "error": 1},
        "stage_failures": {"verify": 2},
        "rollouts": 1000,
        "skipped": 0.0,
        "redrawn_groups": 0,
        "dropped_groups": 0,
        "response_tokens": 100.0,
        **plain,
        **{f"kept_fraction_{s}": 0.5 for s in signs},
        **{f"teacher_gap_{s}": -0.1 for s in signs},
        **changed,
    }


def scraped(port: int) -> dict[tuple[str, ...], float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_rows_become_series(tmp_path: Path) -> None:
    port = free_port()
    live = Live(tmp_path)
    live.metrics = serve_metrics("127.0.0.1", port)
    live.set(steps=9)
    for step in (0, 1):
        live.row(step_row(step))
        live.timing(
            {"step": step, "seconds": 2.0, "tokens_per_s": 50.0, "gpu_bytes": 7, "sampling_s": 1.25, "train_s": 0.5}
        )
    live.row({"event": "eval", "step": 2, "accuracy": 0.75, "problems": 40})
    live.metrics.queues({"verify": {"backlog": 5, "leased": 2}})
    found = scraped(port)
    assert found["rgopd_trainer_step",] == 2
    assert found["rgopd_trainer_steps_planned",] == 9
    assert found["rgopd_trainer_loss",] == 0.25
    assert found["rgopd_trainer_kept_fraction_by_sign", "zero"] == 0.5
    assert found["rgopd_trainer_verdicts_total", "failed"] == 8
    assert found["rgopd_trainer_stage_failures_total", "verify"] == 4
    assert found["rgopd_trainer_tokens_total",] == 200
    assert found["rgopd_trainer_seconds_total", "sampling"] == 2.5
    assert found["rgopd_trainer_eval_accuracy",] == 0.75
    assert found["rgopd_trainer_queue_backlog", "verify"] == 5
    assert found["process_resident_memory_bytes",] > 1 << 20
    live.row(step_row(2, skipped=1.0, kept_tokens=0.0))
    assert scraped(port)["rgopd_trainer_warning", "skipped"] == 1
    live.row(step_row(3))
    assert scraped(port)["rgopd_trainer_warning", "skipped"] == 0
    live.end("finished", "")


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"watch\.metrics_port"):
            serve_metrics("127.0.0.1", taken.getsockname()[1])
