"""Eq. 4 on the current student's top K, out of 2K ids that an older policy ranked first; by the whole vocabulary."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from rgopd.common.errors import ConfigError
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.step import HeadLoss, head_loss

N, V, D, K = 24, 40, 8, 4


@dataclasses.dataclass
class Case:
    """A student that moved on from the policy that sampled; everything over the whole vocabulary, float64."""

    hidden: Tensor
    weight: Tensor
    teacher_NV: Tensor
    batch: TokenBatch

    @property
    def student_NV(self) -> Tensor:
        return (self.hidden @ self.weight.T).log_softmax(-1)

    def loss(self, **changes: object) -> HeadLoss:
        batch = dataclasses.replace(self.batch, **changes)  # type: ignore[arg-type]
        return head_loss(self.hidden, self.weight, batch, get_objective("rg_opd"), gate_preset("off"))

    def exact(self, ids: Tensor) -> Tensor:
        """Eq. 4 at ids [N, K] by plain formulas."""
        p, q = self.student_NV.gather(1, ids), self.teacher_NV.gather(1, ids)
        tail = [(1 - x.exp().sum(-1)).log() for x in (p, q)]
        return ((p.exp() * (p - q)).sum(-1) + tail[0].exp() * (tail[0] - tail[1])).sum()


def case(moved: float, sharp: float = 2.0, margin: int = 2, seed: int = 0) -> Case:
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=rng, dtype=torch.float64)
    weight = torch.randn(V, D, generator=rng, dtype=torch.float64) * sharp
    old = (hidden @ weight.T).log_softmax(-1)
    now = (hidden + moved * torch.randn(N, D, generator=rng, dtype=torch.float64)).requires_grad_()
    teacher = torch.randn(N, V, generator=rng, dtype=torch.float64).log_softmax(-1)
    support = old.topk(margin * K, dim=1).indices
    sampled = torch.multinomial(old.exp(), 1, generator=rng)[:, 0]
    q = teacher.gather(1, support)
    batch = TokenBatch(
        sampled_ids_N=sampled,
        behaviour_logprobs_N=old.gather(1, sampled[:, None])[:, 0],
        support_ids_NK=support,
        rollout_N=torch.arange(N) // 6,
        advantage_R=torch.ones(4, dtype=torch.float64),
        reward_R=torch.ones(4, dtype=torch.float64),
        teacher_sampled_N=teacher.gather(1, sampled[:, None])[:, 0],
        teacher_support_NK=q,
        teacher_tail_N=(1 - q.exp().sum(-1)).log(),
        current_k=K,
    )
    return Case(now, weight, teacher, batch)


def test_loss_and_gradient_are_those_of_the_current_students_top_k() -> None:
    made = case(moved=0.1, sharp=2.5)
    got = made.loss()
    top = made.student_NV.detach().topk(K, dim=1).indices
    assert got.metrics["support_exact"] > 0.6 * N, "most rows are proved"
    want = made.exact(top)
    assert float(got.sums.loss.detach()) == pytest.approx(float(want.detach()), rel=1e-9)
    (gradient,) = torch.autograd.grad(got.sums.loss, made.hidden)
    (expected,) = torch.autograd.grad(want, made.hidden)
    assert torch.allclose(gradient, expected, rtol=1e-7, atol=1e-10)
    behaviour = made.batch.support_ids_NK[:, :K]
    assert not torch.equal(behaviour.sort(1).values, top.sort(1).values), "not what the old policy ranked first"
    assert abs(float(made.exact(behaviour).detach()) - float(want.detach())) > 1e-3
    assert got.stats.support_logprobs_NK.shape == (N, 2 * K), "what people are shown are all candidates"


def test_what_is_called_exact_is_exact_however_far_the_student_moved() -> None:
    proved = 0
    for seed in range(40):
        made = case(moved=0.3 + 0.02 * seed, sharp=0.5 + 0.1 * seed, seed=seed)
        student = made.student_NV.detach()
        candidates = student.gather(1, made.batch.support_ids_NK)
        chosen = made.batch.support_ids_NK.gather(1, candidates.topk(K, dim=1).indices).sort(1).values
        right = (chosen == student.topk(K, dim=1).indices.sort(1).values).all(dim=1)
        certain = candidates.topk(K, dim=1).values[:, -1] >= (1 - candidates.exp().sum(-1)).clamp(min=1e-7).log()
        assert bool((right | ~certain).all())
        assert float(made.loss().metrics["support_exact"]) == float(certain.sum())
        proved += int(certain.sum())
        outside = float(made.loss().metrics["support_outside"])
        assert outside == pytest.approx(float((1 - candidates.exp().sum(-1)).clamp(min=1e-7).sum()), rel=1e-6)
        missed = student.topk(K, dim=1).values.exp().sum() - candidates.topk(K, dim=1).values.exp().sum()
        assert float(missed) <= K * outside, "what is missed is bounded by what lies outside"
    assert 0 < proved < 40 * N


def test_a_student_that_did_not_move_has_the_samplers_support() -> None:
    made = case(moved=0.0)
    assert float(made.loss().metrics["support_overlap"]) == N
    plain = made.batch.support_ids_NK[:, :K]
    q = made.teacher_NV.gather(1, plain)
    same = made.loss(
        support_ids_NK=plain, teacher_support_NK=q, teacher_tail_N=(1 - q.exp().sum(-1)).log(), current_k=0
    )
    assert float(made.loss().sums.loss.detach()) == pytest.approx(float(same.sums.loss.detach()), rel=1e-12)
    assert "support_exact" not in same.metrics
    assert float(case(moved=2.0).loss().metrics["support_overlap"]) < 0.9 * N


def test_padding_is_never_chosen_before_a_real_id() -> None:
    made = case(moved=0.1)
    support, q = made.batch.support_ids_NK.clone(), made.batch.teacher_support_NK.clone()  # type: ignore[union-attr]
    support[:, 3:], q[:, 3:] = -1, 0.0
    tail = (1 - q[:, :3].exp().sum(-1)).log()
    got = made.loss(support_ids_NK=support, teacher_support_NK=q, teacher_tail_N=tail)
    assert float(got.sums.loss.detach()) == pytest.approx(float(made.exact(support[:, :3]).detach()), rel=1e-9)


def test_the_settings_ask_for_more_ids() -> None:
    def config(**distillation: object) -> TrainConfig:
        return TrainConfig.from_mapping({"student": "s", "dataset": {"path": "d"}, "distillation": distillation})

    assert config(k=50).distillation.width == 50
    assert config(k=50).distillation.current_k == 0
    current = config(k=50, support_from="current").distillation
    assert (current.width, current.current_k) == (100, 50)
    assert config(k=50, support_from="current", margin=3).distillation.width == 150
    with pytest.raises(ConfigError, match="support_from=current chooses among the student's ids"):
        config(support_from="current", support="teacher")
