"""Distances of ranked probabilities, against their definition over whole sorted vocabularies in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rgopd.trainer.gating.gate import GateConfig, gate_preset
from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.losses.ranked import ranked_distance
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.step import head_loss
from tests.unit.trainer.losses.test_chunk_ratio import CHUNKS, VOCAB, K, expected_gate, make_batch

OTHER = 31
"""Ids of the teacher."""


def ranked_batch(seed: int, across: str) -> tuple[TokenBatch, Tensor, Tensor, list[list[int]], Tensor]:
    """`make_batch` with the rows that a teacher asked for ranks fills, and that teacher's whole distributions."""
    batch, hidden, weight, chunks = make_batch(seed)
    rng = torch.Generator().manual_seed(seed + 100)
    n = len(batch.rollout_N)
    log_q_NV = (2 * torch.randn(n, OTHER, generator=rng, dtype=torch.float64)).log_softmax(-1)
    log_p_NV = (hidden @ weight.T).log_softmax(-1)
    ranked, rest = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.float64)
    support, teacher, tail = (
        batch.support_ids_NK.clone(),
        batch.teacher_support_NK.clone(),
        batch.teacher_tail_N.clone(),
    )
    for chunk in chunks:
        if across == "hybrid" and len(chunk) == 1:
            continue
        first = chunk[0]
        ranked[first] = True
        rest[first] = -torch.rand((), generator=rng, dtype=torch.float64) * (len(chunk) > 1)
        support[first] = log_p_NV[first].topk(K).indices[torch.randperm(K, generator=rng)]  # in any order
        teacher[first] = log_q_NV[first].topk(K).values
        tail[first] = torch.log1p(-teacher[first].exp().sum())
    for t in (~ranked).nonzero().squeeze(1).tolist():
        if across == "uld":
            support[t] = -1
    changed = {"support_ids_NK": support, "teacher_support_NK": teacher, "teacher_tail_N": tail}
    foreign = torch.ones(n, dtype=torch.bool)
    batch = dataclasses.replace(batch, **changed, foreign_N=foreign, ranked_N=ranked, teacher_rest_N=rest)
    return batch, hidden, weight, chunks, log_q_NV


def distance(p_V: Tensor, q_V: Tensor, c: Tensor, c_teacher: float, cost: str, k: int = K) -> Tensor:
    """By its definition: both vocabularies sorted as a whole, the first k ranks, and what is left as one."""

    def buckets(probs: Tensor, scale: Tensor | float) -> list[Tensor]:
        ordered = probs.sort(descending=True).values
        return [scale * x for x in [*ordered[:k], ordered[k:].sum()]]

    pairs = list(zip(buckets(p_V, c), buckets(q_V, c_teacher), strict=True))
    if cost == "absolute":
        return sum((abs(p - q) for p, q in pairs), torch.zeros((), dtype=torch.float64))
    return sum((q * (q / p).log() - q + p for p, q in pairs), torch.zeros((), dtype=torch.float64))


def reference(
    batch: TokenBatch,
    log_p_NV: Tensor,
    log_q_NV: Tensor,
    chunks: list[list[int]],
    keep: list[bool],
    cost: str,
    merge: str,
) -> Tensor:
    total = log_p_NV.new_zeros(())
    for chunk in chunks:
        first = chunk[0]
        if not keep[first]:
            continue
        if not batch.ranked_N[first]:
            ids = [i for i in batch.support_ids_NK[first].tolist() if i >= 0]
            p, q = log_p_NV[first, ids].exp(), batch.teacher_support_NK[first, : len(ids)].exp()
            total = total + (p * (p / q).log()).sum() + (1 - p.sum()) * ((1 - p.sum()) / (1 - q.sum())).log()
            continue
        rest = sum((log_p_NV[t, batch.sampled_ids_N[t]] for t in chunk[1:]), log_p_NV.new_zeros(()))
        c, c_teacher = (rest.exp(), math.exp(batch.teacher_rest_N[first])) if merge == "product" else (1.0, 1.0)
        total = total + distance(log_p_NV[first].exp(), log_q_NV[first].exp(), c, c_teacher, cost)
    return total


@pytest.mark.parametrize("across", ["uld", "hybrid"])
@pytest.mark.parametrize("cost", ["absolute", "logarithmic"])
@pytest.mark.parametrize("merge", ["product", "first"])
@pytest.mark.parametrize(
    "gate",
    [gate_preset("off"), gate_preset("paper"), gate_preset("released"), GateConfig(granularity="chunk", chunk_size=2)],
    ids=["off", "trajectory", "token", "chunk"],
)
def test_loss_gradient_and_gate_by_their_definition(across: str, cost: str, merge: str, gate: GateConfig):
    for seed in range(2):
        batch, hidden, weight, chunks, log_q_NV = ranked_batch(seed, across)
        hidden.requires_grad_()
        objective = get_objective("reverse_kl", across=across, ranked_cost=cost, ranked_merge=merge)
        result = head_loss(hidden, weight, batch, objective, gate, single_pass=True)
        (grad,) = torch.autograd.grad(result.sums.loss, hidden)
        log_p_NV = (hidden @ weight.T).log_softmax(-1)
        sampled_N = log_p_NV.gather(1, batch.sampled_ids_N[:, None])[:, 0]
        keep = expected_gate(batch, sampled_N.detach().tolist(), chunks, gate)
        assert result.decision.keep_N.tolist() == keep
        loss = reference(batch, log_p_NV, log_q_NV, chunks, keep, cost, merge)
        expected = torch.autograd.grad(loss, hidden)[0] if any(keep) else torch.zeros_like(grad)
        assert float(result.sums.loss.detach()) == pytest.approx(float(loss.detach()), abs=1e-10)
        assert torch.allclose(grad, expected, atol=1e-10)


@pytest.mark.parametrize("cost", ["absolute", "logarithmic"])
@pytest.mark.parametrize("merge", ["product", "first"])
def test_gradcheck(cost: str, merge: str):
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 9, generator=rng, dtype=torch.float64).log_softmax(-1).topk(4).values
    ids = torch.stack([torch.randperm(7, generator=rng)[:4] for _ in range(3)])
    first, ranked = torch.tensor([0, 0, 2]), torch.tensor([True, False, True])
    rest = torch.tensor([-0.3, 0.0, 0.0], dtype=torch.float64)

    def loss(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        support = log_p.gather(1, ids)
        tails = [torch.log1p(-side.exp().sum(-1)) for side in (support, teacher)]
        args = (support, tails[0], ids, log_p[:, 2], teacher, tails[1], rest, first, ranked)
        return ranked_distance(*args, cost=cost, merge=merge)

    assert torch.autograd.gradcheck(loss, logits)


def alone(p_V: Tensor, q_V: Tensor, k: int, cost: str = "absolute") -> float:
    """The distance of two distributions at one position, as a teacher and a trainer with that K would make it."""
    ids = p_V.topk(min(k, len(p_V))).indices
    ids = torch.cat([ids, torch.full((k - len(ids),), -1)])
    support = p_V.log()[ids.clamp(min=0)].masked_fill(ids < 0, PAD_LOGPROB)
    teacher = q_V.topk(min(k, len(q_V))).values.log()
    teacher = torch.cat([teacher, torch.full((k - len(teacher),), PAD_LOGPROB, dtype=torch.float64)])
    tails = [torch.log1p(-side.exp().sum().clamp(max=1.0)) for side in (support, teacher)]
    one, zero = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    args = (support[None], tails[0][None], ids[None], zero, teacher[None], tails[1][None], zero, one)
    return float(ranked_distance(*args, torch.ones(1, dtype=torch.bool), cost=cost).sum())


SIZES = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(1, 50), st.integers(0, 10**6))


@settings(max_examples=100, deadline=None)
@given(SIZES)
def test_the_first_k_ranks_are_uld_up_to_twice_the_smaller_tail_and_whole_with_all_ranks(sizes):
    student, teacher, k, seed = sizes
    rng = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(n, generator=rng, dtype=torch.float64).mul(3).softmax(0) for n in (student, teacher))
    width = max(student, teacher)
    ordered = [
        torch.cat([x.sort(descending=True).values, torch.zeros(width - len(x), dtype=torch.float64)]) for x in (p, q)
    ]
    whole = float((ordered[0] - ordered[1]).abs().sum())
    cut = alone(p, q, k)
    tails = [float(x[k:].sum()) for x in ordered]
    assert -1e-6 <= whole - cut <= 2 * min(tails) + 1e-6
    assert 0 <= cut <= 2 + 1e-6
    assert alone(p, q, k, "logarithmic") >= -1e-6


@settings(max_examples=50, deadline=None)
@given(SIZES)
def test_it_is_zero_for_the_same_shape_over_other_words(sizes):
    student, _, k, seed = sizes
    rng = torch.Generator().manual_seed(seed)
    p = torch.randn(student, generator=rng, dtype=torch.float64).mul(3).softmax(0)
    for cost in ("absolute", "logarithmic"):
        assert alone(p, p[torch.randperm(student, generator=rng)], k, cost) == pytest.approx(0, abs=1e-6)


def test_rollouts_of_a_teacher_of_the_students_tokenizer_keep_their_divergence_in_any_company():
    """Several teachers a run: what a rollout adds must not depend on whose rollouts share its micro-batch."""
    batch, hidden, weight, _, _ = ranked_batch(0, "uld")
    second = batch.rollout_N == 1
    n, at = int(second.sum()), int(second.nonzero()[0])
    rng = torch.Generator().manual_seed(5)
    support, aligned = batch.support_ids_NK.clone(), batch.aligned_N.clone()
    support[second] = torch.stack([torch.randperm(VOCAB, generator=rng)[:K] for _ in range(n)])
    aligned[second] = torch.arange(at, at + n)
    mixed = dataclasses.replace(
        batch,
        support_ids_NK=support,
        aligned_N=aligned,
        foreign_N=~second,
        ranked_N=batch.ranked_N & ~second,
        teacher_tail_N=torch.where(second, -1.0, batch.teacher_tail_N),
    )
    own = dataclasses.replace(
        mixed.take(second.nonzero().squeeze(1)), aligned_N=None, foreign_N=None, ranked_N=None, teacher_rest_N=None
    )
    own = dataclasses.replace(
        own,
        rollout_N=torch.zeros(n, dtype=torch.int64),
        advantage_R=batch.advantage_R[1:2],
        reward_R=batch.reward_R[1:2],
    )
    assert len(CHUNKS[1]) != n
    for across in ("ratio", "mixed", "uld", "hybrid"):
        objective = get_objective("reverse_kl", across=across)
        leave = hidden.clone().requires_grad_()
        together = head_loss(leave, weight, mixed, objective, gate_preset("off"))
        (grad,) = torch.autograd.grad(together.sums.loss, leave)
        alone_ND = hidden[second].clone().requires_grad_()
        apart = head_loss(alone_ND, weight, own, objective, gate_preset("off"))
        (expected,) = torch.autograd.grad(apart.sums.loss, alone_ND)
        assert torch.allclose(grad[second], expected, atol=1e-10), across


def test_ranks_on_the_current_students_support():
    """Of twice as many ids the student's likeliest half, beside the teacher's first ranks."""
    batch, hidden, weight, chunks, log_q_NV = ranked_batch(1, "uld")
    half = dataclasses.replace(batch, current_k=K // 2)
    objective = get_objective("reverse_kl", across="uld")
    result = head_loss(hidden, weight, half, objective, gate_preset("off"))
    log_p_NV = (hidden @ weight.T).log_softmax(-1)
    expected = 0.0
    for chunk in chunks:
        rest = sum((log_p_NV[t, batch.sampled_ids_N[t]] for t in chunk[1:]), torch.zeros((), dtype=torch.float64))
        first = chunk[0]
        other = math.exp(batch.teacher_rest_N[first])
        expected += float(distance(log_p_NV[first].exp(), log_q_NV[first].exp(), rest.exp(), other, "absolute", K // 2))
    assert float(result.sums.loss) == pytest.approx(expected, abs=1e-9)


def test_parts_that_ask_a_teacher_for_different_things_are_refused():
    parts = [{"name": "rg_opd", "options": {"across": across}} for across in ("uld", "ratio")]
    with pytest.raises(ValueError, match="across"):
        get_objective("weighted_sum", parts=parts)
    both = [{"name": "rg_opd", "options": {"across": "uld"}}, {"name": "grpo", "options": {"normalise": "token"}}]
    assert get_objective("weighted_sum", parts=both).across_rows == "ranked"
