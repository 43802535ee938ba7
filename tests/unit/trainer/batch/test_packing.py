"""Packed rows: the loss and the gradient of padded batches, on any cut; nothing seen across rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rgopd.trainer.batch.micro_batch import BatchOptions, MicroBatch, assemble, prefiltered
from rgopd.trainer.batch.packing import MAX_ATTENTION_PADDING, PackedRow
from rgopd.trainer.batch.plan import RolloutPlan, cut_micro_batches
from rgopd.trainer.gating.gate import GateConfig, gate_preset
from rgopd.trainer.student.model import Student
from tests.families.build import save_tiny
from tests.unit.trainer.lone import lone_rank, plans_of, step
from tests.unit.trainer.ranks import make_part
from tests.unit.trainer.run.test_train_step import run, worst


def batch(count: int, packing: bool) -> MicroBatch:
    parts = [make_part(i, 40, 6) for i in range(count)]
    return assemble(parts, plans_of(parts), step=0, total_steps=1, packing=packing)


def hidden_states(student: Student, micro: MicroBatch) -> Tensor:
    def head(hidden_ND: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return hidden_ND.sum(), hidden_ND

    hidden_ND: Tensor = student(micro.input_ids_BS, micro.attention_mask_BS, micro.rows_N, head, micro.packed)[1]
    return hidden_ND


@pytest.fixture(scope="module")
def student(student_folder: Path) -> Student:
    return Student.load(str(student_folder), packing=True)


@pytest.mark.parametrize("count", [1, 2, 13])
def test_packed_rows_give_the_hidden_states_of_padded_ones(student_folder: Path, student: Student, count: int) -> None:
    plain = Student.load(str(student_folder))
    with torch.no_grad():
        expected = hidden_states(plain, batch(count, packing=False))
        torch.testing.assert_close(hidden_states(student, batch(count, packing=True)), expected, atol=1e-5, rtol=1e-5)
        # The same module still takes padded batches.
        torch.testing.assert_close(hidden_states(student, batch(count, packing=False)), expected, atol=1e-5, rtol=1e-5)


def test_a_rollout_does_not_see_its_neighbours(student: Student) -> None:
    micro = batch(6, packing=True)
    assert micro.packed is not None
    start = sum(micro.packed.lengths[:3])
    other = micro.input_ids_BS.clone()
    other[0, :start] = (other[0, :start] + 7) % 40
    with torch.no_grad():
        before = hidden_states(student, micro)
        after = hidden_states(student, MicroBatch(other, None, micro.rows_N, micro.tokens, [], micro.packed))
    mine = micro.rows_N >= start
    torch.testing.assert_close(before[mine], after[mine], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[~mine], after[~mine], atol=1e-3)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_groups_hold_every_token_once_with_little_padding(lengths: list[int]) -> None:
    row = PackedRow.of(lengths)
    laid_out = torch.cat([g.flatten() for g in row.groups])
    assert laid_out[row.inverse_S].tolist() == list(range(sum(lengths)))
    assert row.position_ids_1S[0].tolist() == [t for n in lengths for t in range(n)]
    for group in row.groups:
        members = {int(places[0]) for places in group}
        shortest = min(n for n, s in zip(lengths, row.cumulative_R1.tolist(), strict=False) if s in members)
        assert group.shape[1] <= MAX_ATTENTION_PADDING * shortest


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), max_size=40),
    ranks=st.integers(1, 5),
    max_tokens=st.integers(1, 300),
    max_rollouts=st.integers(1, 9),
    random=st.randoms(),
)
def test_the_cut_by_real_tokens_keeps_every_rollout_and_the_budget(
    lengths: list[int], ranks: int, max_tokens: int, max_rollouts: int, random: Any
) -> None:
    rollouts = [RolloutPlan(f"r{i:04d}", 3, n, 1.0, 0.5, 0) for i, n in enumerate(lengths)]
    shares = cut_micro_batches(rollouts, ranks, max_tokens, max_rollouts, packing=True)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    micros = [micro for share in shares for micro in share]
    assert sorted((r for m in micros for r in m), key=lambda r: r.rollout_id) == rollouts
    assert all(len(m) <= max_rollouts for m in micros)
    assert all(len(m) <= 1 or sum(r.tokens for r in m) <= max_tokens for m in micros)
    shuffled = list(rollouts)
    random.shuffle(shuffled)
    assert cut_micro_batches(shuffled, ranks, max_tokens, max_rollouts, packing=True) == shares


def test_ranks_get_equal_amounts_of_real_tokens() -> None:
    rollouts = [RolloutPlan(f"r{n:04d}", 3, n, 1.0, 0.5, 0) for n in range(10, 210)]
    shares = cut_micro_batches(rollouts, 4, 2000, 64, packing=True)
    loads = [sum(r.tokens for m in share for r in m) for share in shares]
    assert max(loads) <= 1.02 * min(loads)
    for micros in zip(*shares, strict=True):  # FSDP's collectives wait for the slowest rank at every one of them
        sizes = [sum(r.tokens for r in m) for m in micros]
        assert max(sizes) <= 1.1 * min(sizes)


@pytest.fixture(scope="module")
def padded(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    with lone_rank(tmp_path_factory.mktemp("store")):
        return step(student_folder, rollouts=13, gate=GateConfig(), packing=False)[:2]


def check_same(padded: tuple[Any, Any], gradient: Any, metrics: Any) -> None:
    assert worst(padded[0], gradient) < 1e-5
    for name in ("loss", "grad_norm", "kept_fraction", "response_tokens"):
        assert metrics[name] == pytest.approx(padded[1][name], rel=1e-5)
    assert padded[1]["padding_fraction"] > 0.2
    assert metrics["padding_fraction"] == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradient_are_those_of_padding(
    student_folder: Path, tmp_path: Path, padded: tuple[Any, Any], checkpointing: bool
) -> None:
    with lone_rank(tmp_path):
        check_same(
            padded,
            *step(student_folder, rollouts=13, gate=GateConfig(), gradient_checkpointing=checkpointing)[:2],
        )


def test_two_ranks_and_any_cut_give_the_same_too(student_folder: Path, tmp_path: Path, padded: tuple[Any, Any]) -> None:
    [packed] = run(student_folder, tmp_path / "ranks", 2, {"rollouts": 13, "micro": 4, "gate": {}, "packing": True})
    check_same(padded, *packed)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows of 4 in one of two layers, capped scores: its own attention is the eager one."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    return save_tiny(tmp_path_factory.mktemp("gemma2"), "gemma2", attn_logit_softcapping=5.0, **kinds)


@pytest.mark.parametrize("count", [1, 13])
def test_windows_are_packed_as_they_are_padded(windowed: Path, count: int) -> None:
    plain, packed = Student.load(str(windowed)), Student.load(str(windowed), packing=True)
    assert packed.packing
    with torch.no_grad():
        expected = hidden_states(plain, batch(count, packing=False))
        torch.testing.assert_close(hidden_states(packed, batch(count, packing=True)), expected, atol=1e-5, rtol=1e-5)
        # Without its windows the same model says something else: the test can fail.
        plain.hf.config.layer_types = ["full_attention"] * 2
        wide = Student.load(str(windowed)).hf
        for layer in wide.model.layers:
            layer.self_attn.sliding_window = None
        wide.config.sliding_window = 1000
        other = hidden_states(Student(wide), batch(count, packing=False))
    assert (other - expected).abs().max() > 1e-2


def test_states_that_run_on_are_not_packed(tmp_path: Path) -> None:
    student = Student.load(str(save_tiny(tmp_path, "mamba")), packing=True)
    assert not student.packing
    assert "linear_attention" in student.unpacked


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_prefilter_drops_what_the_gate_drops_and_counts_it(preset: Any) -> None:
    parts = [make_part(i, 40, 6) for i in range(12)]
    gate, options = gate_preset(preset), BatchOptions(True, 1, packing=True)
    micro = prefiltered(parts, plans_of(parts), options, gate, step=0)
    whole = batch(12, packing=True)
    assert micro.dropped is not None
    assert 0 < len(micro.rollout_ids) < 12
    assert micro.dropped.tokens + micro.tokens.sampled_ids_N.numel() == whole.tokens.sampled_ids_N.numel()
    assert all(float(v) == 0 for k, v in micro.dropped.stats.items() if k.startswith("tokens_kept"))
    assert prefiltered(parts, plans_of(parts), options, GateConfig(delta=1e6), step=0).empty
