"""Why the gate kept a rollout, in words that agree with the gate itself."""

from __future__ import annotations

from typing import Any

import pytest

from rgopd.common.run_files import KeptRollout, KeptStep, Tokens, explain
from rgopd.common.run_files.explain import explain_token

GATE = {
    "enabled": True,
    "granularity": "trajectory",
    "chunk_size": 64,
    "zero_advantage": "negative",
    "signal": "advantage",
    "delta": 0.0,
    "warmup_steps": 0,
    "min_kept_fraction": 0.0,
}


def step(*, gate_open: bool = False, **gate: Any) -> KeptStep:
    return KeptStep({"step": 1, "gate": {**GATE, **gate}, "gate_open": gate_open})


def rollout(**changed: Any) -> KeptRollout:
    kept = changed.get("kept_tokens") or 0
    keep = [True] * kept + [False] * (4 - kept)
    tokens = Tokens(
        [-1.0] * 4,
        [-1.0] * 4,
        [-1.5] * 4,
        [0.1] * 4,
        keep,
        [[1]] * 4,
        [[-1.0]] * 4,
        [[-1.0]] * 4,
        [-0.4] * 4,
        [-0.4] * 4,
    )
    values: dict[str, Any] = {
        "rollout_id": "r",
        "index": 0,
        "response_text": "x",
        "response_ids": [1, 2, 3, 4],
        "finish": "stop",
        "verdict": None,
        "reward": 1.0,
        "advantage": 0.5,
        "outcome": "trained",
        "reason": "",
        "policy_version": 1,
        "l_teacher": -6.0,
        "l_student": -4.0,
        "kept_tokens": 0,
        "tokens": tokens,
    }
    return KeptRollout(**{**values, **changed})


@pytest.mark.parametrize(
    ("gate", "changed", "kept", "words"),
    [
        ({}, {}, "none", ["Dropped, all 4 tokens", "A success (A = +0.500)", "> 0", "-6.000 - (-4.000) = -2.000"]),
        ({}, {"advantage": -0.5, "kept_tokens": 4}, "all", ["Kept, all 4", "failure (A = -0.500)", "< 0"]),
        ({}, {"advantage": 0.0, "kept_tokens": 4}, "all", ["A = 0 counts as a failure"]),
        ({"zero_advantage": "mask"}, {"advantage": 0.0}, "none", ["same reward", "gate.zero_advantage=mask"]),
        ({"delta": 0.5}, {"advantage": -0.5, "kept_tokens": 4}, "all", ["< -0.5"]),
        ({"granularity": "token"}, {"kept_tokens": 1}, "part", ["1 of 4 tokens (25%)", "token by token"]),
        ({"granularity": "chunk", "chunk_size": 2}, {"kept_tokens": 2}, "part", ["chunk of 2 tokens"]),
        ({"signal": "reward"}, {"reward": 0.0, "kept_tokens": 4}, "all", ["failure (reward = +0.000)"]),
        ({"enabled": False}, {"kept_tokens": 4}, "all", ["The gate is off"]),
    ],
)
def test_words_of_the_gate(gate: dict[str, Any], changed: dict[str, Any], kept: str, words: list[str]) -> None:
    said = explain(step(**gate), rollout(**changed))
    assert said.kept == kept
    for word in words:
        assert word in said.text


def test_a_warming_gate_is_open() -> None:
    said = explain(step(gate_open=True, warmup_steps=5), rollout(kept_tokens=4))
    assert "open during its warm-up (5 steps)" in said.text


@pytest.mark.parametrize(
    ("outcome", "kept", "word"),
    [
        ("lost", "", "gave it up"),
        ("error", "", "never a wrong answer"),
        ("redrawn", "", "drawn again"),
        ("unscored", "none", "not asked"),
        ("prefiltered", "none", "before the forward"),
    ],
)
def test_what_was_not_trained_on_says_why(outcome: str, kept: str, word: str) -> None:
    said = explain(step(), rollout(outcome=outcome, reason="the sandbox timed out", tokens=None, kept_tokens=None))
    assert said.kept == kept
    assert word in said.text
    assert "the sandbox timed out" in said.text


def test_a_rank_that_wrote_nothing() -> None:
    assert "no figures" in explain(step(), rollout(tokens=None, kept_tokens=None)).text


def test_words_of_a_token() -> None:
    released = step(granularity="token", zero_advantage="mask")
    assert explain_token(released, rollout(), 0).startswith("dropped: log pi_T - log pi_theta = -0.500; a success")
    assert "A = 0 is dropped" in explain_token(released, rollout(advantage=0.0), 0)
    assert "decides over its rollout" in explain_token(step(), rollout(kept_tokens=4), 3)
    assert "keeps everything" in explain_token(step(enabled=False), rollout(kept_tokens=4), 3)
    assert "No figures" in explain_token(step(), rollout(), 9)
