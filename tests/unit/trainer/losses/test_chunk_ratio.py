"""A batch of a teacher with another tokenizer: gate and loss against a plain float64 loop over aligned chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rgopd.trainer.gating.gate import GateConfig, decide_gate, gate_preset
from rgopd.trainer.losses.chunk_ratio import chunk_log_ratio
from rgopd.trainer.losses.head import head_stats
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.step import head_loss

VOCAB, K, DIM = 23, 4, 6
CHUNKS = [[1, 2, 1, 3, -2], [2, 1], [1, 1, 4, 1]]
"""Tokens of each aligned chunk of each rollout; the last two of the first have no value."""


def make_batch(seed: int) -> tuple[TokenBatch, Tensor, Tensor, list[list[int]]]:
    """A batch, hidden states, a head, and the tokens of every chunk."""
    rng = torch.Generator().manual_seed(seed)
    chunks, rollout, start = [], [], 0
    for r, sizes in enumerate(CHUNKS):
        for size in sizes:
            if size > 0:
                chunks.append(list(range(start, start + size)))
            start += abs(size)
            rollout += [r] * abs(size)
    n = len(rollout)
    aligned = torch.full((n,), -1)
    teacher = torch.zeros(n, dtype=torch.float64)
    for chunk in chunks:
        aligned[chunk] = chunk[0]
        teacher[chunk] = -4 * torch.rand((), generator=rng, dtype=torch.float64).item() / len(chunk)
    support = torch.stack([torch.randperm(VOCAB, generator=rng)[:K] for _ in range(n)])
    logits = torch.randn(n, VOCAB, generator=rng, dtype=torch.float64)
    log_q = logits.log_softmax(-1).gather(1, support)
    single = torch.zeros(n, dtype=torch.bool)
    single[[c[0] for c in chunks if len(c) == 1]] = True
    support[:, 3] = -1  # an id that the teacher lacks
    support[~single] = -1
    tail = torch.log1p(-torch.where(support >= 0, log_q.exp(), 0.0).sum(-1))
    batch = TokenBatch(
        sampled_ids_N=torch.randint(VOCAB, (n,), generator=rng),
        behaviour_logprobs_N=torch.full((n,), -2.0, dtype=torch.float64),
        support_ids_NK=support,
        rollout_N=torch.tensor(rollout),
        advantage_R=torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64),
        reward_R=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64),
        teacher_sampled_N=teacher,
        teacher_support_NK=log_q,
        teacher_tail_N=tail,
        aligned_N=aligned,
    )
    hidden = torch.randn(n, DIM, generator=rng, dtype=torch.float64)
    return batch, hidden, torch.randn(VOCAB, DIM, generator=rng, dtype=torch.float64), chunks


def reference(batch: TokenBatch, log_p_NV: Tensor, chunks: list[list[int]], keep: list[bool], dense: bool) -> Tensor:
    """The loss by its definition, with a gradient."""
    total = log_p_NV.new_zeros(())
    sampled = [log_p_NV[t, batch.sampled_ids_N[t]] for t in range(len(keep))]
    before: dict[int, float] = {}
    for chunk in chunks:
        d = sum(float(sampled[t].detach() - batch.teacher_sampled_N[t]) for t in chunk)
        rollout = int(batch.rollout_N[chunk[0]])
        credit = d + before.get(rollout, 0.0)
        before[rollout] = d
        if not keep[chunk[0]]:
            continue
        if dense and len(chunk) == 1:
            [t] = chunk
            ids = [i for i in batch.support_ids_NK[t].tolist() if i >= 0]
            p = log_p_NV[t, ids].exp()
            q = batch.teacher_support_NK[t, : len(ids)].exp()
            total = total + (p * (p / q).log()).sum() + (1 - p.sum()) * ((1 - p.sum()) / (1 - q.sum())).log()
        else:
            student = sum(sampled[t] for t in chunk)
            total = total + d + credit * (student - student.detach())
    return total


@pytest.mark.parametrize("across", ["ratio", "mixed"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("single_pass", [False, True])
@pytest.mark.parametrize(
    "gate",
    [gate_preset("off"), gate_preset("paper"), gate_preset("released"), GateConfig(granularity="chunk", chunk_size=2)],
    ids=["off", "trajectory", "token", "chunk"],
)
def test_loss_gradient_and_gate_are_those_of_the_chunks(seed: int, across: str, gate: GateConfig, single_pass: bool):
    batch, hidden, weight, chunks = make_batch(seed)
    hidden.requires_grad_()
    objective = get_objective("reverse_kl", across=across)
    result = head_loss(hidden, weight, batch, objective, gate, single_pass=single_pass)
    (grad,) = torch.autograd.grad(result.sums.loss, hidden)

    log_p_NV = (hidden @ weight.T).log_softmax(-1)
    sampled_N = log_p_NV.gather(1, batch.sampled_ids_N[:, None])[:, 0]
    keep = expected_gate(batch, sampled_N.detach().tolist(), chunks, gate)
    assert result.decision.keep_N.tolist() == keep
    loss = reference(batch, log_p_NV, chunks, keep, across == "mixed")
    expected = torch.autograd.grad(loss, hidden)[0] if any(keep) else torch.zeros_like(grad)
    assert float(result.sums.loss.detach()) == pytest.approx(float(loss.detach()), abs=1e-10)
    assert torch.allclose(grad, expected, atol=1e-10)
    assert float(result.sums.count) == sum(keep)


def expected_gate(batch: TokenBatch, student: list[float], chunks: list[list[int]], gate: GateConfig) -> list[bool]:
    """Eq. 2 over sums of whole chunks."""
    teacher = batch.teacher_sampled_N.tolist()
    keep = [False] * len(student)
    first_of = {t: chunk[0] for chunk in chunks for t in chunk}
    begin = {r: batch.rollout_N.tolist().index(r) for r in range(3)}
    units: dict[object, list[int]] = {}
    for t in first_of:
        r = int(batch.rollout_N[t])
        unit = {
            "trajectory": r,
            "token": first_of[t],
            "chunk": (r, (first_of[t] - begin[r]) // gate.chunk_size),
        }[gate.granularity]
        units.setdefault(unit, []).append(t)
    for tokens in units.values():
        gap = math.fsum(teacher[t] - student[t] for t in tokens)
        advantage = float(batch.advantage_R[batch.rollout_N[tokens[0]]])
        kept = gap > 0 if advantage > 0 else gap < 0
        for t in tokens:
            keep[t] = kept or not gate.enabled
    return keep


def test_chunks_of_one_token_without_padding_are_the_ordinary_batch():
    batch, hidden, weight, _ = make_batch(0)
    n = len(batch.rollout_N)
    stats = head_stats(hidden, weight, batch.sampled_ids_N, batch.support_ids_NK)
    student, rollout = stats.sampled_logprobs_N, batch.rollout_N
    args = (batch.advantage_R, batch.reward_R, batch.teacher_sampled_N, student, rollout)
    for granularity in ("token", "chunk", "trajectory"):
        gate = GateConfig(granularity=granularity, chunk_size=2)
        plain, aligned = decide_gate(gate, *args), decide_gate(gate, *args, aligned_N=torch.arange(n))
        assert torch.equal(plain.keep_N, aligned.keep_N)


def test_the_ratio_is_unbiased_for_the_reverse_kl_of_a_chunk_of_two_tokens():
    """The mean over everything the student may sample of value and gradient: those of KL(pi || pi_T), exactly."""
    rng = torch.Generator().manual_seed(1)
    first = torch.randn(4, generator=rng, dtype=torch.float64, requires_grad=True)
    then = torch.randn(4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    log_q = torch.randn(16, generator=rng, dtype=torch.float64).log_softmax(0).view(4, 4)
    log_p1, log_p2 = first.log_softmax(0), then.log_softmax(-1)
    joint = log_p1[:, None] + log_p2
    kl = (joint.exp() * (joint - log_q)).sum()
    expected = torch.autograd.grad(kl, [first, then], retain_graph=True)
    chunk = torch.zeros(2, dtype=torch.int64)
    mean, value = 0.0, 0.0
    for a in range(4):
        for b in range(4):
            losses = chunk_log_ratio(torch.stack([log_p1[a], log_p2[a, b]]), log_q[a, b].repeat(2) / 2, chunk, chunk)
            mean = mean + joint[a, b].detach().exp() * losses.sum()
            value += float(joint[a, b].detach().exp() * losses.sum().detach())
    assert value == pytest.approx(float(kl.detach()), abs=1e-12)
    for got, want in zip(torch.autograd.grad(mean, [first, then]), expected, strict=True):
        assert torch.allclose(got, want, atol=1e-12)


def test_a_border_that_the_next_token_decides_does_not_move_a_student_that_is_right():
    """Characters against tokens ';' and ';x': equal text probabilities have no gradient, in spite of the borders."""
    then = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # after ';': '1' or 'x', half each
    log_p = then.log_softmax(0)
    certain, half = torch.zeros((), dtype=torch.float64), math.log(0.5)
    rollout = torch.zeros(2, dtype=torch.int64)
    alone = chunk_log_ratio(  # the teacher says ';' (half of the time), and then '1' for sure
        torch.stack([certain, log_p[0]]), torch.tensor([half, 0.0], dtype=torch.float64), torch.tensor([0, 1]), rollout
    )
    both = chunk_log_ratio(
        torch.stack([certain, log_p[1]]), torch.tensor([half, 0.0], dtype=torch.float64), rollout, rollout
    )
    mean = 0.5 * alone.sum() + 0.5 * both.sum()
    assert float(mean.detach()) == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.grad(mean, then)[0].abs().max() < 1e-12


@pytest.mark.parametrize("name", ["forward_kl", "jsd"])
def test_objectives_that_cannot_use_it_say_so(name: str):
    batch, hidden, weight, _ = make_batch(0)
    with pytest.raises(ValueError, match=f"{name}.*another tokenizer"):
        head_loss(hidden, weight, batch, get_objective(name), gate_preset("off"))


def test_a_weighted_sum_with_grpo_aligns_and_learns_from_every_token():
    batch, hidden, weight, _ = make_batch(0)
    parts = [{"name": "rg_opd"}, {"name": "grpo", "options": {"normalise": "token"}}]
    both = get_objective("weighted_sum", parts=parts)
    assert both.aligns
    assert not get_objective("weighted_sum", parts=[{"name": "kdrl"}]).aligns
    result = head_loss(hidden, weight, batch, both, gate_preset("paper"))
    assert float(result.sums.count) == len(batch.rollout_N)
