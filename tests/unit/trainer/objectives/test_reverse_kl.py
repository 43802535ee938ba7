"""Eq. 3-4 against a float64 reference written from the paper alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rgopd.trainer.gating.gate import GateConfig, decide_gate
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.losses.normalise import gradient_scale, raw_sums
from rgopd.trainer.objectives import TokenBatch, get_objective


def eq4(student_V: list[float], teacher_V: list[float], support: list[int]) -> float:
    """Eq. 4 for one token, from full log-prob rows, in Python floats."""
    support = [v for v in support if v >= 0]
    p, q = ([math.exp(row[v]) for v in support] for row in (student_V, teacher_V))
    total = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    p_tail, q_tail = max(1 - sum(p), 1e-7), max(1 - sum(q), 1e-7)
    return total + p_tail * math.log(p_tail / q_tail)


class World:
    """A student head, a full teacher and R rollouts; hidden states are the parameters."""

    def __init__(self, lengths: list[int], vocab: int, k: int, seed: int, *, pad: int = 0, tilt: float = 1.0):
        rng = torch.Generator().manual_seed(seed)
        n, dim = sum(lengths), 4
        real = {"generator": rng, "dtype": torch.float64}
        self.hidden = torch.randn(n, dim, **real).requires_grad_()
        self.weight = torch.randn(vocab, dim, **real).requires_grad_()
        student = (self.hidden @ self.weight.t()).detach()
        self.teacher = (student + tilt * torch.randn(n, vocab, **real)).log_softmax(-1)
        self.sampled = torch.randint(vocab, (n,), generator=rng)
        self.support = student.topk(min(k, vocab)).indices
        if pad + k - min(k, vocab):
            filler = torch.full((n, pad + k - min(k, vocab)), -1)
            self.support = torch.cat([self.support, filler], 1)
        self.rollout = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        choice = torch.tensor([-1.0, 0.0, 1.0])
        self.advantage = choice[torch.randint(3, (len(lengths),), generator=rng)]

    def batch(self) -> TokenBatch:
        rows = torch.arange(len(self.sampled))
        support = self.teacher.gather(1, self.support.clamp(min=0)).masked_fill(self.support < 0, -torch.inf)
        mass = support.exp().sum(-1)
        return TokenBatch(
            sampled_ids_N=self.sampled,
            behaviour_logprobs_N=self.full_student()[rows, self.sampled].detach(),
            support_ids_NK=self.support,
            rollout_N=self.rollout,
            advantage_R=self.advantage,
            reward_R=(self.advantage > 0).double(),
            teacher_sampled_N=self.teacher[rows, self.sampled],
            teacher_support_NK=support,
            teacher_tail_N=torch.log1p(-mass.clamp(max=1.0)),
        )

    def full_student(self) -> Tensor:
        return (self.hidden @ self.weight.t()).log_softmax(-1)

    def stats(self) -> HeadStats:
        return head_stats(self.hidden, self.weight, self.sampled, self.support, chunk_size=23)

    def micro_batches(self) -> list[tuple[slice, slice]]:
        """One per rollout: its tokens, its row."""
        edges = torch.bincount(self.rollout, minlength=len(self.advantage)).cumsum(0).tolist()
        starts = [0, *edges[:-1]]
        return [(slice(a, b), slice(r, r + 1)) for r, (a, b) in enumerate(zip(starts, edges, strict=True))]


worlds = st.builds(
    World,
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    vocab=st.integers(2, 12),
    k=st.integers(1, 14),
    seed=st.integers(0, 10_000),
    pad=st.integers(0, 2),
)


@settings(max_examples=60, deadline=None)
@given(world=worlds, granularity=st.sampled_from(["trajectory", "token"]), delta=st.sampled_from([0.0, 0.3]))
def test_rg_opd_is_eq_3_over_eq_4(world: World, granularity, delta) -> None:
    stats, batch = world.stats(), world.batch()
    cfg = GateConfig(granularity=granularity, delta=delta)
    keep = decide_gate(
        cfg, batch.advantage_R, batch.reward_R, batch.teacher_sampled_N, stats.sampled_logprobs_N, batch.rollout_N
    ).keep_N
    sums = raw_sums(get_objective("rg_opd").token_losses(stats, batch), keep)
    scale = gradient_scale(sums.count.item())

    full = world.full_student().tolist()
    per_token = [eq4(s, t, ids) for s, t, ids in zip(full, world.teacher.tolist(), world.support.tolist(), strict=True)]
    numerator = sum(value for value, kept in zip(per_token, keep.tolist(), strict=True) if kept)
    assert sums.loss.item() == pytest.approx(numerator, abs=1e-6, rel=1e-6)
    if not keep.any():
        assert scale is None
        assert sums.loss.item() == 0.0
    else:
        assert scale is not None
        assert sums.loss.item() * scale == pytest.approx(numerator / int(keep.sum()), abs=1e-6, rel=1e-6)
    grads = torch.autograd.grad(sums.loss, (world.hidden, world.weight))
    assert all(torch.isfinite(grad).all() for grad in grads)


@settings(max_examples=30, deadline=None)
@given(world=worlds)
def test_full_support_is_exact_reverse_kl_with_its_gradient(world: World) -> None:
    vocab = world.weight.shape[0]
    world.support = torch.arange(vocab).expand(len(world.sampled), vocab).contiguous()
    got = get_objective("reverse_kl").token_losses(world.stats(), world.batch()).loss_N
    student = world.full_student()
    want = (student.exp() * (student - world.teacher)).sum(-1)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    for a, b in zip(
        torch.autograd.grad(got.sum(), (world.hidden, world.weight)),
        torch.autograd.grad(want.sum(), (world.hidden, world.weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(world=worlds)
def test_student_equal_to_teacher_loses_nothing(world: World) -> None:
    world.teacher = world.full_student().detach()
    for tail in ("tail", "renormalise"):
        loss = get_objective("reverse_kl", tail=tail).token_losses(world.stats(), world.batch()).loss_N
        torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-9, rtol=0)
        grads = torch.autograd.grad(loss.sum(), (world.hidden, world.weight))
        assert all(grad.abs().max() < 1e-6 for grad in grads)


@settings(max_examples=25, deadline=None)
@given(world=worlds, granularity=st.sampled_from(["trajectory", "token"]))
def test_any_cut_into_micro_batches_gives_the_same_step(world: World, granularity) -> None:
    objective, cfg = get_objective("rg_opd"), GateConfig(granularity=granularity)

    def step(cuts: list[tuple[slice, slice]]) -> tuple[float, list[Tensor]]:
        batch = world.batch()
        count, loss = 0.0, 0.0
        grads = [torch.zeros_like(world.hidden), torch.zeros_like(world.weight)]
        for tokens, rollouts in cuts:
            stats = head_stats(world.hidden[tokens], world.weight, world.sampled[tokens], world.support[tokens])
            part = TokenBatch(
                **{
                    name: value[tokens] if name.endswith(("_N", "_NK")) else value[rollouts]
                    for name, value in vars(batch).items()
                    if isinstance(value, Tensor)
                }
                | {"rollout_N": batch.rollout_N[tokens] - rollouts.start}
            )
            keep = decide_gate(
                cfg, part.advantage_R, part.reward_R, part.teacher_sampled_N, stats.sampled_logprobs_N,
                part.rollout_N,
            ).keep_N  # fmt: skip
            sums = raw_sums(objective.token_losses(stats, part), keep)
            for total, grad in zip(grads, torch.autograd.grad(sums.loss, (world.hidden, world.weight)), strict=True):
                total += grad
            count, loss = count + sums.count.item(), loss + sums.loss.item()
        scale = gradient_scale(count) or 0.0
        return loss * scale, [grad * scale for grad in grads]

    whole_loss, whole_grads = step([(slice(0, len(world.sampled)), slice(0, len(world.advantage)))])
    cut_loss, cut_grads = step(world.micro_batches())
    assert cut_loss == pytest.approx(whole_loss, abs=1e-5)
    torch.testing.assert_close(cut_grads, whole_grads, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tail", ["tail", "none", "renormalise"])
def test_gradient_by_finite_differences(tail: str) -> None:
    world = World([3, 2], vocab=9, k=4, seed=1, pad=1)
    batch = world.batch()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        stats = head_stats(hidden, weight, world.sampled, world.support, chunk_size=20)
        return get_objective("reverse_kl", tail=tail).token_losses(stats, batch).loss_N

    assert torch.autograd.gradcheck(loss, (world.hidden, world.weight))


def test_the_gradient_flows_through_the_tail() -> None:
    """With the tail cut out of the graph the gradient is another one; tokens of the tail are moved only by it."""
    world = World([4], vocab=9, k=3, seed=2)
    batch, stats = world.batch(), world.stats()
    (with_tail,) = torch.autograd.grad(
        get_objective("reverse_kl").token_losses(stats, batch).loss_N.sum(), world.hidden
    )
    stats = world.stats()
    cut = HeadStats(stats.sampled_logprobs_N, stats.support_logprobs_NK, stats.tail_logprob_N.detach())
    (without,) = torch.autograd.grad(get_objective("reverse_kl").token_losses(cut, batch).loss_N.sum(), world.hidden)
    assert (with_tail - without).abs().max() > 1e-2


def reverse_kl_at_mass(mass: float, tail: str) -> float:
    """Two support tokens share ``mass`` on the student's side and .9 on the teacher's."""
    both = lambda m: torch.tensor([[m / 2, m / 2]], dtype=torch.float64).log()  # noqa: E731
    log_rest = lambda m: torch.tensor([1 - m], dtype=torch.float64).log()  # noqa: E731
    zero = torch.zeros(1, dtype=torch.float64)
    stats = HeadStats(zero, both(mass), log_rest(mass))
    batch = TokenBatch(
        sampled_ids_N=torch.zeros(1, dtype=torch.int64),
        behaviour_logprobs_N=zero,
        support_ids_NK=torch.tensor([[0, 1]]),
        rollout_N=torch.zeros(1, dtype=torch.int64),
        advantage_R=torch.ones(1),
        reward_R=torch.ones(1),
        teacher_sampled_N=zero,
        teacher_support_NK=both(0.9),
        teacher_tail_N=log_rest(0.9),
    )
    return float(get_objective("reverse_kl", tail=tail).token_losses(stats, batch).loss_N)


def test_without_the_tail_emptying_the_support_is_rewarded() -> None:
    assert reverse_kl_at_mass(0.9, "none") == pytest.approx(0.0, abs=1e-9)
    assert reverse_kl_at_mass(0.3, "none") == pytest.approx(-0.3296, abs=1e-4)
    assert reverse_kl_at_mass(0.9, "tail") == pytest.approx(0.0, abs=1e-9)
    assert reverse_kl_at_mass(0.3, "tail") == pytest.approx(1.0326, abs=1e-4)


def test_renormalised_at_k_1_is_identically_zero() -> None:
    world = World([5], vocab=9, k=1, seed=3)
    loss = get_objective("reverse_kl", tail="renormalise").token_losses(world.stats(), world.batch()).loss_N
    assert (loss == 0).all()


def test_unknown_names_and_options_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown objective 'revers_kl'; known: .*reverse_kl.*rg_opd"):
        get_objective("revers_kl")
    with pytest.raises(ValueError, match=r"its options are tail"):
        get_objective("reverse_kl", tial="none")
    with pytest.raises(ValueError, match="'tail', 'none' or 'renormalise'"):
        get_objective("reverse_kl", tail="false")


def test_a_batch_without_teacher_is_refused() -> None:
    world = World([2], vocab=5, k=2, seed=4)
    bare = TokenBatch(
        **{k: v for k, v in vars(world.batch()).items() if isinstance(v, Tensor) and not k.startswith("teacher")}
    )
    with pytest.raises(ValueError, match="the teacher's log-prob of the sampled tokens"):
        get_objective("reverse_kl").token_losses(world.stats(), bare)
