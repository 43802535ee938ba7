"""`support: none`: one sampled token a position, and on average the reverse KL of the whole distribution."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.losses.sampled_ratio import sampled_log_ratio
from rgopd.trainer.objectives import TokenBatch, get_objective, names
from rgopd.trainer.objectives.step import head_loss

VOCAB, DIM = 7, 5


def test_its_mean_over_what_the_student_samples_is_the_reverse_kl_with_its_gradient() -> None:
    """Exactly, summed over every token that may be drawn, in float64; the reference is autograd's own."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(VOCAB, generator=rng, dtype=torch.float64, requires_grad=True)
    log_q = torch.randn(VOCAB, generator=rng, dtype=torch.float64).log_softmax(0)
    log_p = logits.log_softmax(0)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    mean = (log_p.exp().detach() * sampled_log_ratio(log_p, log_q)).sum()
    assert float(mean.detach()) == pytest.approx(float(exact.detach()), abs=1e-14)
    (want,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (got,) = torch.autograd.grad(mean, logits)
    assert torch.allclose(got, want, atol=1e-14)


def make_batch(aligned: bool = False) -> tuple[TokenBatch, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    n = 9
    real = {"generator": rng, "dtype": torch.float64}
    batch = TokenBatch(
        sampled_ids_N=torch.randint(VOCAB, (n,), generator=rng),
        behaviour_logprobs_N=torch.full((n,), -2.0, dtype=torch.float64),
        support_ids_NK=torch.zeros(n, 0, dtype=torch.int64),
        rollout_N=torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2]),
        advantage_R=torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64),
        reward_R=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64),
        teacher_sampled_N=-3 * torch.rand(n, **real),
        aligned_N=torch.tensor([0, 0, 2, -1, 4, 5, 6, 6, 6]) if aligned else None,
    )
    return batch, torch.randn(n, DIM, **real).requires_grad_(), torch.randn(VOCAB, DIM, **real)


@pytest.mark.parametrize("single_pass", [False, True])
@pytest.mark.parametrize("preset", ["off", "paper", "released"])
def test_loss_gradient_and_gate_by_a_plain_loop(preset: str, single_pass: bool) -> None:
    batch, hidden, weight = make_batch()
    result = head_loss(hidden, weight, batch, get_objective("rg_opd"), gate_preset(preset), single_pass=single_pass)
    (grad,) = torch.autograd.grad(result.sums.loss, hidden)
    total, slope, kept = 0.0, torch.zeros_like(hidden), 0
    gaps: dict[int, float] = {}
    student = [float((hidden @ weight.T).log_softmax(-1)[t, y].detach()) for t, y in enumerate(batch.sampled_ids_N)]
    for t, rollout in enumerate(batch.rollout_N.tolist()):
        gaps[rollout] = gaps.get(rollout, 0.0) + float(batch.teacher_sampled_N[t]) - student[t]
    for t, rollout in enumerate(batch.rollout_N.tolist()):
        d = student[t] - float(batch.teacher_sampled_N[t])
        gap = gaps[rollout] if preset == "paper" else -d
        above = float(batch.advantage_R[rollout]) > 0
        if preset != "off" and not (gap > 0 if above else gap < 0):
            continue
        p = (hidden[t] @ weight.T).softmax(-1).detach()
        one_hot = torch.nn.functional.one_hot(batch.sampled_ids_N[t], VOCAB)
        total, kept = total + d, kept + 1
        slope[t] = d * (one_hot - p) @ weight
    assert float(result.sums.loss.detach()) == pytest.approx(total, abs=1e-12)
    assert float(result.sums.count) == kept
    assert torch.allclose(grad, slope, atol=1e-12)


def test_across_tokenizers_it_is_the_ratio_of_chunks() -> None:
    batch, hidden, weight = make_batch(aligned=True)
    loss = head_loss(hidden, weight, batch, get_objective("reverse_kl"), gate_preset("off")).sums.loss
    with_support = dataclasses.replace(
        batch,
        support_ids_NK=torch.zeros(9, 1, dtype=torch.int64),
        teacher_support_NK=torch.full((9, 1), -1.0, dtype=torch.float64),
        teacher_tail_N=torch.full((9,), -0.5, dtype=torch.float64),
    )
    same = head_loss(hidden, weight, with_support, get_objective("reverse_kl"), gate_preset("off")).sums.loss
    assert float(loss.detach()) == pytest.approx(float(same.detach()), abs=1e-12)


WITHOUT_A_SUPPORT = {"reverse_kl", "rg_opd", "grpo", "kdrl", "rlad"}


@pytest.mark.parametrize("name", sorted(set(names()) - {"weighted_sum"}))
def test_which_objectives_work_without_a_support(name: str) -> None:
    """Those that say so compute a finite loss and a gradient; the others refuse such a batch by name."""
    objective = get_objective(name)
    assert ("none" in objective.supports) == (name in WITHOUT_A_SUPPORT)
    batch, hidden, weight = make_batch()
    if name in WITHOUT_A_SUPPORT:
        result = head_loss(hidden, weight, batch, objective, gate_preset("off"))
        (grad,) = torch.autograd.grad(result.sums.loss, hidden)
        assert torch.isfinite(grad).all()
        assert (grad != 0).any()
    else:
        with pytest.raises(ValueError, match="support"):
            head_loss(hidden, weight, batch, objective, gate_preset("off"))


def test_options_decide_too() -> None:
    assert "none" in get_objective("minillm", single_step=False).supports
    assert "none" not in get_objective("reverse_kl", across="mixed").supports
    parts = [{"name": "rg_opd"}, {"name": "grpo", "options": {"normalise": "token"}}]
    assert "none" in get_objective("weighted_sum", parts=parts).supports
    assert "none" not in get_objective("weighted_sum", parts=[{"name": "rg_opd"}, {"name": "jsd"}]).supports
