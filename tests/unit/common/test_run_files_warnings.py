"""What is wrong with a run, from rows of metrics.jsonl alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rgopd.common.run_files import History, warnings_of


def row(step: int, **changed: Any) -> dict[str, Any]:
    """A step of a healthy run."""
    return {
        "event": "step",
        "step": step,
        "rollouts": 64,
        "verdicts": {"passed": 30, "failed": 34, "error": 0},
        "stage_failures": {},
        "redrawn_groups": 0,
        "dropped_groups": 0,
        "pass_rate": 30 / 64,
        "response_length_mean": 100.0 + step % 3,
        "truncated_fraction": 0.01,
        "staleness_max": 0,
        "loss": 0.5 + 0.01 * (step % 5),
        "grad_norm": 1.0 + 0.1 * (step % 4),
        "skipped": 0.0,
        "entropy": 0.8,
        "kept_tokens": 3000.0,
        "kept_fraction": 0.5,
        "tokens_positive": 3000.0,
        "tokens_negative": 3000.0,
        "kept_fraction_positive": 0.5,
        "kept_fraction_negative": 0.5,
        "behaviour_drift": 1e-4,
        "importance_effective_fraction": 1.0,
        **changed,
    }


def run(steps: int = 30, last: int = 3, **changed: Any) -> list[dict[str, Any]]:
    """A healthy run whose last steps differ."""
    return [row(n, **(changed if n >= steps - last else {})) for n in range(steps)]


def kinds(rows: list[dict[str, Any]]) -> list[str]:
    return [warn.kind for warn in warnings_of(rows)]


def test_a_healthy_run_has_none() -> None:
    assert kinds(run()) == []
    assert kinds([]) == []
    assert kinds(run(1)) == []


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"kept_fraction_positive": 0.009}, "starving_gate_positive"),
        ({"kept_fraction_negative": 0.0}, "starving_gate_negative"),
        ({"verdicts": {"passed": 30, "failed": 32, "error": 2}}, "errors"),
        ({"stage_failures": {"generate": 8}}, "errors"),
        ({"truncated_fraction": 0.21}, "truncated"),
        ({"entropy": 0.19}, "entropy_collapse"),
        ({"response_length_mean": 210.0}, "length_runaway"),
        ({"response_length_mean": 30.0}, "length_collapse"),
        ({"behaviour_drift": 0.06}, "drift"),
        ({"behaviour_drift": 0.6, "staleness_max": 1}, "drift"),
        ({"importance_effective_fraction": 0.4, "staleness_max": 1}, "drift"),
        ({"skipped": 1.0, "grad_norm": 0.0}, "skipped"),
        ({"redrawn_groups": 1}, "redraws"),
        ({"redrawn_groups": 3, "dropped_groups": 1}, "redraws"),
        ({"tokens_positive": 0.0, "tokens_negative": 0.0, "pass_rate": 1.0}, "no_signal"),
        ({"loss": math.nan}, "not_finite"),
        ({"grad_norm": math.inf}, "not_finite"),
    ],
)
def test_each_warning_alone(changed: dict[str, Any], kind: str) -> None:
    found = warnings_of(run(**changed))
    assert [warn.kind for warn in found] == [kind]
    assert found[0].step == 29
    assert found[0].text
    assert found[0].do


@pytest.mark.parametrize(
    "changed",
    [
        {"kept_fraction_positive": 0.011},
        {"tokens_positive": 0.0, "kept_fraction_positive": 0.0},  # no such tokens: nothing to starve
        {"verdicts": {"passed": 30, "failed": 33, "error": 1}},
        {"truncated_fraction": 0.19},
        {"entropy": 0.21},
        {"response_length_mean": 190.0},
        {"behaviour_drift": 0.04},
        {"behaviour_drift": 0.06, "staleness_max": 1},
    ],
)
def test_just_within_the_limit(changed: dict[str, Any]) -> None:
    assert kinds(run(**changed)) == []


def test_spikes_are_one_steps() -> None:
    assert kinds(run(last=1, loss=2.7)) == ["loss_spike"]
    assert kinds(run(last=1, grad_norm=20.0)) == ["grad_spike"]
    assert kinds(run(5, last=1, loss=2.7)) == []  # too early to know what is usual
    assert kinds([*run(last=1, loss=2.7), row(30)]) == []


def test_starving_reads_several_steps() -> None:
    rows = [*run(), row(30, kept_fraction_positive=0.0)]
    assert kinds(rows) == []
    assert kinds([row(0, kept_fraction_positive=0.0)]) == ["starving_gate_positive"]


def test_an_evaluation_fell_by_more_than_its_noise() -> None:
    def evaluation(step: int, accuracy: float) -> dict[str, Any]:
        return {"event": "eval", "step": step, "accuracy": accuracy, "problems": 500}

    assert kinds([evaluation(0, 0.5), *run(), evaluation(30, 0.46)]) == []
    assert kinds([evaluation(0, 0.5), *run(), evaluation(20, 0.6), evaluation(30, 0.5)]) == ["evaluation_fell"]


def test_rows_of_an_older_version_are_looked_at_as_far_as_they_go() -> None:
    assert kinds([{"event": "step", "step": n, "loss": 1.0} for n in range(20)]) == []


def test_a_history_says_what_all_rows_say_and_is_bounded() -> None:
    rows = [
        {"event": "eval", "step": 0, "accuracy": 0.5, "problems": 100},
        *run(3000, last=3, entropy=0.1, kept_fraction_negative=0.0),
        {"event": "eval", "step": 3000, "accuracy": 0.1, "problems": 100},
    ]
    history = History(rows)
    assert len(history.rows()) < 60
    assert warnings_of(history.rows()) == warnings_of(rows)
    assert [w.kind for w in warnings_of(rows)] == ["starving_gate_negative", "entropy_collapse", "evaluation_fell"]
