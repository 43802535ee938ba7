"""Token figures are the step's own: same log-probs, gate and loss as the micro-batch that was trained on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rgopd.common.run_files import read_step
from rgopd.common.run_files.kept_files import step_path, unpack, write_step
from rgopd.trainer.batch.micro_batch import MicroBatch, assemble
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.losses.buckets import tail_logprob
from rgopd.trainer.objectives import Objective, get_objective
from rgopd.trainer.objectives.step import HeadLoss, head_loss
from rgopd.trainer.records.watch import KeepConfig
from rgopd.trainer.run.figures import Figures
from tests.unit.trainer.lone import plans_of
from tests.unit.trainer.ranks import make_part

VOCAB, WIDTH, K = 40, 8, 6


def trained(objective: Objective, gate: GateConfig, rollouts: int = 5) -> tuple[MicroBatch, HeadLoss, list[Any]]:
    parts = [make_part(i, VOCAB, K) for i in range(rollouts)]
    if not objective.needs_teacher:
        parts = [replace(p, teacher_sampled_T=None, teacher_support_TK=None, teacher_tail_T=None) for p in parts]
    plans = plans_of(parts)
    micro = assemble(parts, plans, step=0, total_steps=1, packing=True)
    rng = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(micro.tokens.sampled_ids_N.shape[0], WIDTH, generator=rng, requires_grad=True)
    weight_VD = torch.randn(VOCAB, WIDTH, generator=rng)
    return micro, head_loss(hidden_ND, weight_VD, micro.tokens, objective, gate), plans


@pytest.mark.parametrize("name", ["rg_opd", "reverse_kl", "tsd_kd", "grpo", "kdrl"])
def test_figures_are_those_of_the_step(name: str) -> None:
    objective = get_objective(name)
    gate = GateConfig(enabled=objective.needs_teacher)
    micro, result, plans = trained(objective, gate)
    figures = Figures(["r001", "r003"], plans, 1, objective, KeepConfig())
    figures.note(micro, result)
    rows = {row["id"]: row for row in figures.rows(figures.arrays())}
    assert list(rows) == ["r001", "r003"]
    output = objective.token_losses(result.stats, micro.tokens)
    loss_N = output.loss_N if output.ungated_loss_N is None else output.loss_N + output.ungated_loss_N
    for index, item in ((1, "r001"), (3, "r003")):
        mine_N = micro.tokens.rollout_N == index
        row = rows[item]
        student_T = unpack(row["student"])
        torch.testing.assert_close(torch.tensor(student_T), result.stats.sampled_logprobs_N[mine_N])
        torch.testing.assert_close(torch.tensor(unpack(row["loss"])), loss_N[mine_N].detach())
        assert unpack(row["keep"]).astype(bool).tolist() == result.decision.keep_N[mine_N].tolist()
        assert row["kept_tokens"] == int(result.decision.keep_N[mine_N].sum())
        assert row["l_student"] == pytest.approx(float(result.stats.sampled_logprobs_N[mine_N].double().sum()))
        assert (row["rank"], row["cut"]) == (1, False)
        assert ("teacher" in row) == objective.needs_teacher
        if objective.needs_teacher:
            assert micro.tokens.teacher_sampled_N is not None
            assert row["l_teacher"] == pytest.approx(float(micro.tokens.teacher_sampled_N[mine_N].double().sum()))


@pytest.mark.parametrize("top_k", [0, 2, 6, 50])
def test_named_ids_and_tail_sum_to_one(top_k: int) -> None:
    objective = get_objective("rg_opd")
    micro, result, plans = trained(objective, GateConfig())
    figures = Figures(["r002"], plans, 0, objective, KeepConfig(top_k=top_k))
    figures.note(micro, result)
    (row,) = figures.rows(figures.arrays())
    k = min(top_k, K)
    assert row["k"] == k
    student_TK = unpack(row["support_student"]).reshape(-1, k).astype(np.float64) if k else np.zeros((1, 0))
    mass_T = np.exp(student_TK).sum(1) + np.exp(unpack(row["tail_student"]))
    np.testing.assert_allclose(mass_T, 1.0, atol=5e-3)  # float16
    assert (np.diff(student_TK, axis=1) <= 1e-3).all()
    teacher_TK = unpack(row["support_teacher"]).reshape(-1, k).astype(np.float64) if k else np.zeros((1, 0))
    np.testing.assert_allclose(np.exp(teacher_TK).sum(1) + np.exp(unpack(row["tail_teacher"])), 1.0, atol=5e-3)


def test_the_token_budget_cuts_and_sums_stay_whole(tmp_path: Any) -> None:
    objective = get_objective("rg_opd")
    micro, result, plans = trained(objective, GateConfig())
    lengths = {plan.rollout_id: plan.response_tokens for plan in plans}
    figures = Figures(["r000", "r001"], plans, 0, objective, KeepConfig(tokens=lengths["r000"] + 1))
    figures.note(micro, result)
    first, second = figures.rows(figures.arrays())
    assert (first["cut"], len(unpack(first["student"]))) == (False, lengths["r000"])
    assert (second["cut"], len(unpack(second["student"]))) == (True, 1)
    whole_N = result.stats.sampled_logprobs_N[micro.tokens.rollout_N == 1]
    assert second["l_student"] == pytest.approx(float(whole_N.sum()))
    write_step(step_path(tmp_path, 0), [{"kind": "step", "format": 1, "step": 0}, first, second])
    assert read_step(tmp_path, 0).groups == []


def test_what_had_no_forward_is_named(tmp_path: Any) -> None:
    objective = get_objective("rg_opd")
    micro, result, plans = trained(objective, GateConfig(), rollouts=3)
    others = [replace(plans[0], rollout_id="dropped")]
    figures = Figures(["r000", "dropped", "of-another-rank"], [*plans, *others], 2, objective, KeepConfig())
    figures.note(micro, result)
    rows = figures.rows(figures.arrays())
    assert [(row["id"], row.get("prefiltered", False)) for row in rows] == [("r000", False), ("dropped", True)]


def test_a_padded_support_is_no_id() -> None:
    objective = get_objective("rg_opd")
    parts = [make_part(0, VOCAB, 2), make_part(1, VOCAB, K)]
    plans = plans_of(parts)
    micro = assemble(parts, plans, step=0, total_steps=1)
    hidden_ND = torch.randn(micro.tokens.sampled_ids_N.shape[0], WIDTH)
    result = head_loss(hidden_ND, torch.randn(VOCAB, WIDTH), micro.tokens, objective, GateConfig())
    figures = Figures(["r000"], plans, 0, objective, KeepConfig())
    figures.note(micro, result)
    (row,) = figures.rows(figures.arrays())
    ids_TK = unpack(row["support_ids"]).reshape(-1, K)
    assert (ids_TK[:, 2:] == -1).all()
    assert (ids_TK[:, :2] >= 0).all()
    assert np.isneginf(unpack(row["support_student"]).reshape(-1, K)[:, 2:].astype(float)).all()
    torch.testing.assert_close(
        torch.tensor(unpack(row["tail_student"])),
        tail_logprob(result.stats.support_logprobs_NK[: len(ids_TK), :2].detach()),
        atol=1e-5,
        rtol=1e-4,
    )
    assert math.isfinite(row["l_teacher"])
