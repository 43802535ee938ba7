from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rgopd.trainer.gating.gate import GateConfig, GateDecision, decide_gate, gate_preset, starved_signs


def reference_keep(
    cfg: GateConfig,
    advantages: list[float],
    rewards: list[float],
    teacher: list[list[float]],
    student: list[list[float]],
) -> list[bool]:
    """Eq. 1-2 rollout by rollout, token by token, in Python floats."""
    keep: list[bool] = []
    for advantage, reward, teacher_T, student_T in zip(advantages, rewards, teacher, student, strict=True):
        length = len(teacher_T)
        size = {"trajectory": length or 1, "token": 1, "chunk": cfg.chunk_size}[cfg.granularity]
        for start in range(0, length, size):
            unit = range(start, min(start + size, length))
            teacher_sum = sum(teacher_T[t] for t in unit)
            student_sum = sum(student_T[t] for t in unit)
            signal = advantage if cfg.signal == "advantage" else reward
            g = (signal > 0 and teacher_sum > student_sum + cfg.delta) or (
                signal <= 0 and teacher_sum < student_sum - cfg.delta
            )
            if cfg.zero_advantage == "mask" and advantage == 0:
                g = False
            keep += [g] * len(unit)
    return keep


@st.composite
def cases(draw: st.DrawFn) -> tuple[GateConfig, list[float], list[float], list[list[float]], list[list[float]]]:
    cfg = GateConfig(
        granularity=draw(st.sampled_from(["trajectory", "token", "chunk"])),
        chunk_size=draw(st.integers(1, 4)),
        zero_advantage=draw(st.sampled_from(["negative", "mask"])),
        signal=draw(st.sampled_from(["advantage", "reward"])),
        delta=draw(st.sampled_from([0.0, 0.25, 1.0])),
    )
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    # Quarters add up exactly, so that teacher_sum = student_sum and teacher_sum = student_sum + delta do occur.
    quarters = st.integers(-12, 0).map(lambda n: n / 4)
    rows = lambda: [draw(st.lists(quarters, min_size=n, max_size=n)) for n in lengths]  # noqa: E731
    signs = st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=len(lengths), max_size=len(lengths))
    return cfg, draw(signs), draw(signs), rows(), rows()


def decide(cfg, advantages, rewards, teacher, student, **kwargs) -> GateDecision:
    rollout_N = torch.repeat_interleave(torch.arange(len(teacher)), torch.tensor([len(row) for row in teacher]))
    flat = lambda rows: torch.tensor([value for row in rows for value in row])  # noqa: E731
    return decide_gate(
        cfg, torch.tensor(advantages), torch.tensor(rewards), flat(teacher), flat(student), rollout_N, **kwargs
    )


@settings(deadline=None)
@given(cases())
def test_matches_eq_1_and_2(case) -> None:
    assert decide(*case).keep_N.tolist() == reference_keep(*case)


@settings(deadline=None)
@given(cases())
def test_counts_are_raw_and_add_up_over_micro_batches(case) -> None:
    cfg, advantages, rewards, teacher, student = case
    whole = decide(*case)
    parts = [decide(cfg, [a], [r], [t], [s]) for a, r, t, s in zip(advantages, rewards, teacher, student, strict=True)]
    assert torch.cat([part.keep_N for part in parts]).tolist() == whole.keep_N.tolist()
    for key, value in whole.stats.items():
        assert float(sum(part.stats[key] for part in parts)) == pytest.approx(float(value))
    totals = sum(float(whole.stats[f"tokens_total_{sign}"]) for sign in ("positive", "zero", "negative"))
    kept = sum(float(whole.stats[f"tokens_kept_{sign}"]) for sign in ("positive", "zero", "negative"))
    assert (totals, kept) == (sum(map(len, teacher)), int(whole.keep_N.sum()))


def test_presets() -> None:
    assert gate_preset("paper") == GateConfig(granularity="trajectory", zero_advantage="negative", delta=0.0)
    assert gate_preset("released") == GateConfig(granularity="token", zero_advantage="mask")
    assert gate_preset("off").enabled is False
    with pytest.raises(ValueError, match="known: paper, released, off"):
        gate_preset("papre")  # type: ignore[arg-type]


def test_student_equal_to_teacher_keeps_nothing() -> None:
    rows = [[-1.0, -2.0], [-0.5]]
    assert not decide(gate_preset("paper"), [1.0, -1.0], [1.0, 0.0], rows, rows).keep_N.any()
    assert decide(gate_preset("off"), [1.0, -1.0], [1.0, 0.0], rows, rows).keep_N.all()


def test_warm_up_keeps_everything_and_still_counts() -> None:
    cfg = GateConfig(warmup_steps=3)
    rows = [[-1.0, -2.0]]
    assert decide(cfg, [1.0], [1.0], rows, rows, step=2).keep_N.all()
    assert not decide(cfg, [1.0], [1.0], rows, rows, step=3).keep_N.any()


def test_long_sums_do_not_lose_a_small_gap() -> None:
    """8,192 tokens at -20 nats and a gap of 1e-3 in all: float32 sums of 164,000 step by 0.016."""
    student = torch.full((8192,), -20.0)
    teacher = student.clone()
    teacher[5] += 1e-3
    rollout = torch.zeros(8192, dtype=torch.int64)
    one = torch.ones(1)
    assert decide_gate(gate_preset("paper"), one, one, teacher, student, rollout).keep_N.all()


def test_missing_teacher_values_are_an_error_not_a_dropped_token() -> None:
    with pytest.raises(ValueError, match="finite"):
        decide(gate_preset("paper"), [1.0], [1.0], [[float("nan")]], [[-1.0]])


def test_unknown_keys_and_negative_margins_are_refused() -> None:
    with pytest.raises(ValidationError):
        GateConfig(detla=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        GateConfig(delta=-1.0)


def test_starved_sides_are_named() -> None:
    stats = decide(gate_preset("paper"), [1.0, -1.0], [1.0, 0.0], [[-3.0], [-3.0]], [[-1.0], [-1.0]]).stats
    assert starved_signs({key: float(value) for key, value in stats.items()}) == ["positive"]
