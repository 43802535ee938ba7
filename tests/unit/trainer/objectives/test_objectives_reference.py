"""Every objective against plain Python written from its paper, token by token; and its gradient by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.losses.normalise import raw_sums
from rgopd.trainer.objectives import TokenBatch, get_objective, names

VOCAB, K = 9, 5
LENGTHS = [4, 1, 3]
Rows = list[list[float]]


def make(seed: int, *, pad: int = 1, stale: float = 0.4) -> tuple[Tensor, Tensor, TokenBatch]:
    """Student logits (the parameter), the teacher's full log-probs, and the batch that an objective sees."""
    rng = torch.Generator().manual_seed(seed)
    n = sum(LENGTHS)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    logits = draw(n, VOCAB).requires_grad_()
    teacher = draw(n, VOCAB).log_softmax(-1)
    sampled = torch.randint(VOCAB, (n,), generator=rng)
    support = torch.cat([logits.detach().topk(K).indices, torch.full((n, pad), -1)], 1)
    if pad:
        support[1, 2] = -1
    student = logits.detach().log_softmax(-1)
    rows = torch.arange(n)
    teacher_support = teacher.gather(1, support.clamp(min=0)).masked_fill(support < 0, -torch.inf)
    return (
        logits,
        teacher,
        TokenBatch(
            sampled_ids_N=sampled,
            behaviour_logprobs_N=student[rows, sampled] + stale * draw(n),
            support_ids_NK=support,
            rollout_N=torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS)),
            advantage_R=torch.tensor([0.8, -1.1, 0.3], dtype=torch.float64),
            reward_R=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64),
            teacher_sampled_N=teacher[rows, sampled],
            teacher_support_NK=teacher_support,
            teacher_tail_N=torch.log1p(-teacher_support.exp().sum(-1)),
            reference_logprobs_N=student[rows, sampled] + 0.3 * draw(n),
            step=40,
            total_steps=100,
        ),
    )


def stats_of(logits: Tensor, batch: TokenBatch) -> HeadStats:
    logp = logits.log_softmax(-1)
    support = logp.gather(1, batch.support_ids_NK.clamp(min=0)).masked_fill(batch.support_ids_NK < 0, -1e4)
    tail = torch.log1p(-support.exp().sum(-1))
    return HeadStats(logp.gather(1, batch.sampled_ids_N[:, None])[:, 0], support, tail, -(logp.exp() * logp).sum(-1))


class Token:
    """One response token as the papers see it: floats, dictionaries by token id, the tail as id None."""

    def __init__(self, t: int, student: list[float], teacher: list[float], batch: TokenBatch):
        ids = [v for v in batch.support_ids_NK[t].tolist() if v >= 0]
        self.p, self.q = ({v: math.exp(row[v]) for v in ids} for row in (student, teacher))
        self.p_tail, self.q_tail = 1 - sum(self.p.values()), 1 - sum(self.q.values())
        self.student, self.teacher = student, teacher
        y = int(batch.sampled_ids_N[t])
        self.log_pi, self.log_teacher = student[y], teacher[y]
        self.log_old = float(batch.behaviour_logprobs_N[t])
        self.log_ref = float(batch.reference_logprobs_N[t])  # type: ignore[index]
        self.rollout = int(batch.rollout_N[t])
        self.advantage = float(batch.advantage_R[self.rollout])
        self.reward = float(batch.reward_R[self.rollout])
        self.entropy = -sum(math.exp(x) * x for x in student)

    def pairs(self, tail: str = "tail") -> list[tuple[float, float]]:
        """(student, teacher) probability of each bucket."""
        both = [(self.p[v], self.q[v]) for v in self.p]
        if tail == "tail":
            return [*both, (self.p_tail, self.q_tail)]
        if tail == "renormalise":
            p_mass, q_mass = sum(self.p.values()), sum(self.q.values())
            return [(a / p_mass, b / q_mass) for a, b in both]
        return both


def kl(pairs: list[tuple[float, float]]) -> float:
    return sum(a * math.log(a / b) for a, b in pairs)


def reverse(token: Token, tail: str = "tail") -> float:
    return kl(token.pairs(tail))


def forward(token: Token, tail: str = "tail") -> float:
    return kl([(b, a) for a, b in token.pairs(tail)])


def jsd(token: Token, beta: float, tail: str = "tail") -> float:
    mixed = [(a, b, beta * b + (1 - beta) * a) for a, b in token.pairs(tail)]
    return beta * kl([(b, m) for _, b, m in mixed]) + (1 - beta) * kl([(a, m) for a, _, m in mixed])


def surrogate(log_ratio: float, advantage: float, low: float = 0.2, high: float = 0.2) -> float:
    r = math.exp(log_ratio)
    return -min(r * advantage, max(min(r, 1 + high), 1 - low) * advantage)


def k3(token: Token) -> float:
    d = token.log_ref - token.log_pi
    return math.exp(d) - d - 1


def rollouts(tokens: list[Token]) -> list[list[Token]]:
    return [[t for t in tokens if t.rollout == r] for r in range(len(LENGTHS))]


def token_mean(f: Callable[[Token], float]) -> Callable[[list[Token]], float]:
    return lambda tokens: sum(map(f, tokens)) / len(tokens)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def gspo(tokens: list[Token]) -> float:
    losses = []
    for rows in rollouts(tokens):
        s = math.exp(mean([t.log_pi - t.log_old for t in rows]))
        losses.append(surrogate(math.log(s), rows[0].advantage, 3e-4, 4e-4))
    return mean(losses)


def minillm(gamma: float, single: bool, normalise: bool) -> Callable[[list[Token]], float]:
    def loss(tokens: list[Token]) -> float:
        total = 0.0
        for rows in rollouts(tokens):
            rewards = [t.log_teacher - t.log_pi for t in rows]
            for t, token in enumerate(rows):
                later = [(gamma ** (u - t), rewards[u]) for u in range(t + 1 if single else t, len(rows))]
                ret = sum(w * r for w, r in later)
                if normalise:
                    ret /= max(sum(w for w, _ in later), 1e-6)
                total += surrogate(token.log_pi - token.log_old, ret)
                if single:
                    total += reverse(token) * min(math.exp(token.log_pi - token.log_old), 1.2)
        return total / len(tokens)

    return loss


def ranking(token: Token, released: bool) -> float:
    best = sorted(token.p, key=lambda v: -token.p[v])[:3]
    order = sorted(best, key=lambda v: -token.teacher[v])
    s = [token.student[v] for v in order]
    total = 0.0
    for i in range(len(s)):
        rest = s[: i + 1] if released else s[i:]
        total += math.log(sum(map(math.exp, rest))) - s[i]
    return total


def quantile(values: list[float], level: float) -> float:
    ordered, at = sorted(values), level * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def tsd_kd(released: bool) -> Callable[[list[Token]], float]:
    """candidates=3, opener=0.6, so that small rollouts have an opening."""

    def segment(rows: list[Token], groups: list[list[Token]]) -> float:
        entropies = [t.entropy for t in rows]
        level = quantile(entropies, 0.1 if released else 0.9)
        unsure = [h for h in entropies if h >= level - 1e-12]
        running, first = 0.0, 0
        for i, h in enumerate(entropies):
            running += h
            if running / sum(entropies) >= 0.6:
                first = i
                break
        opening = [ranking(t, released) for group in groups for t in group[:first]]
        return mean(unsure) + 0.1 * (mean(opening) if opening else 0.0)

    def bucket_entropy(probabilities: list[float]) -> float:
        return -sum(a * math.log(a) for a in probabilities)

    def loss(tokens: list[Token]) -> float:
        match = 0.0
        for t in tokens:
            p, q = zip(*t.pairs(), strict=True)
            match += jsd(t, 0.9) / (1 + math.exp(bucket_entropy(q) - bucket_entropy(p)))
        match /= len(tokens)
        if released:
            return match + segment(tokens, rollouts(tokens))
        return match + sum(len(rows) * segment(rows, [rows]) for rows in rollouts(tokens)) / len(tokens)

    return loss


def sdpo(token: Token) -> float:
    return jsd(token, 0.5) * min(math.exp(token.log_pi - token.log_old), 2.0)


def kdrl(beta: float, skip: bool = False) -> Callable[[list[Token]], float]:
    return token_mean(
        lambda t: (
            surrogate(t.log_pi - t.log_old, t.advantage)
            + (0.0 if skip and t.reward > 0 else beta * 0.5 * (t.log_teacher - t.log_pi) ** 2)
        )
    )


def rlad(alpha: float) -> Callable[[list[Token]], float]:
    def loss(t: Token) -> float:
        return surrogate(t.log_pi - alpha * t.log_old - (1 - alpha) * t.log_teacher, t.advantage)

    return lambda tokens: mean([mean([loss(t) for t in rows]) for rows in rollouts(tokens)])


def grpo_loss(t: Token) -> float:
    return surrogate(t.log_pi - t.log_old, t.advantage)


def per_rollout(f: Callable[[Token], float]) -> Callable[[list[Token]], float]:
    return lambda tokens: mean([mean([f(t) for t in rows]) for rows in rollouts(tokens)])


CASES: list[tuple[str, dict[str, object], Callable[[list[Token]], float]]] = [
    ("reverse_kl", {}, token_mean(reverse)),
    ("rg_opd", {"tail": "none"}, token_mean(lambda t: reverse(t, "none"))),
    ("reverse_kl", {"tail": "renormalise"}, token_mean(lambda t: reverse(t, "renormalise"))),
    ("forward_kl", {}, token_mean(forward)),
    ("forward_kl", {"tail": "renormalise"}, token_mean(lambda t: forward(t, "renormalise"))),
    ("jsd", {}, token_mean(lambda t: jsd(t, 0.5))),
    ("jsd", {"beta": 0.9, "tail": "none"}, token_mean(lambda t: jsd(t, 0.9, "none"))),
    ("jsd", {"beta": 0.0}, token_mean(forward)),
    ("jsd", {"beta": 1.0}, token_mean(reverse)),
    ("sdpo", {}, token_mean(sdpo)),
    ("grpo", {}, per_rollout(grpo_loss)),
    ("grpo", {"normalise": "token", "clip_high": 0.28}, token_mean(
        lambda t: surrogate(t.log_pi - t.log_old, t.advantage, 0.2, 0.28))),
    ("grpo", {"normalise": "constant", "max_tokens": 7}, lambda tokens: sum(map(grpo_loss, tokens)) / 21),
    ("grpo", {"reference_kl": 0.04}, per_rollout(lambda t: grpo_loss(t) + 0.04 * k3(t))),
    ("grpo", {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}, gspo),
    ("kdrl", {}, kdrl(2e-3)),
    ("kdrl", {"anneal": True, "skip_correct": True}, kdrl(5e-3 - 40 * 5e-5, skip=True)),
    ("rlad", {"alpha": 0.5}, rlad(0.5)),
    ("rlad", {"alpha": 1.0}, per_rollout(grpo_loss)),
    ("minillm", {}, minillm(1.0, True, True)),
    ("minillm", {"gamma": 0.7, "length_normalise": False}, minillm(0.7, True, False)),
    ("minillm", {"gamma": 0.5, "single_step": False}, minillm(0.5, False, True)),
    ("tsd_kd", {"candidates": 3, "opener": 0.6}, tsd_kd(released=False)),
    ("tsd_kd", {"candidates": 3, "opener": 0.6, "mode": "released"}, tsd_kd(released=True)),
    ("weighted_sum", {"parts": [
        {"name": "grpo", "weight": 0.5, "options": {"normalise": "token"}}, {"name": "jsd", "weight": 2.0}]},
        token_mean(lambda t: 0.5 * grpo_loss(t) + 2 * jsd(t, 0.5))),
]  # fmt: skip


def case_id(case: tuple[str, dict[str, object], Callable[[list[Token]], float]]) -> str:
    """The same in every process: no addresses of functions."""
    return f"{case[0]}-{'-'.join(map(str, case[1].values()))[:40]}"


IDS = [case_id(case) for case in CASES]


def step_loss(name: str, options: dict[str, object], logits: Tensor, batch: TokenBatch) -> Tensor:
    """The step's loss with every token kept."""
    output = get_objective(name, **options).token_losses(stats_of(logits, batch), batch)
    sums = raw_sums(output, torch.ones_like(batch.rollout_N, dtype=torch.bool))
    return sums.loss / sums.count


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("name", "options", "reference"), CASES, ids=IDS)
def test_matches_its_paper(name, options, reference, seed: int) -> None:
    logits, teacher, batch = make(seed)
    student = logits.detach().log_softmax(-1).tolist()
    tokens = [Token(t, student[t], row, batch) for t, row in enumerate(teacher.tolist())]
    got = step_loss(name, options, logits, batch).item()
    assert got == pytest.approx(reference(tokens), rel=1e-9, abs=1e-10)


def test_every_objective_has_a_reference() -> None:
    assert {name for name, _, _ in CASES} == set(names())


@pytest.mark.parametrize(("name", "options", "reference"), CASES, ids=IDS)
def test_gradient_is_finite_and_independent_of_padding(name, options, reference) -> None:
    logits, _, batch = make(3, pad=0)
    (grad,) = torch.autograd.grad(step_loss(name, options, logits, batch), logits)
    n = len(batch.rollout_N)
    padded = replace(
        batch,
        support_ids_NK=torch.cat([batch.support_ids_NK, torch.full((n, 3), -1)], 1),
        teacher_support_NK=torch.cat([batch.teacher_support_NK, torch.full((n, 3), -torch.inf)], 1),
    )
    (padded_grad,) = torch.autograd.grad(step_loss(name, options, logits, padded), logits)
    assert torch.isfinite(grad).all()
    assert (grad != 0).any()
    torch.testing.assert_close(padded_grad, grad, atol=1e-12, rtol=1e-9)


# Objectives that stop some gradient are not the derivative of their value: what is stopped is held in the comparison.
DIFFERENTIABLE = [
    case for case in CASES if case[0] in ("reverse_kl", "forward_kl", "jsd", "kdrl", "rlad", "grpo", "weighted_sum")
]


@pytest.mark.parametrize(("name", "options", "reference"), DIFFERENTIABLE, ids=map(case_id, DIFFERENTIABLE))
def test_gradient_by_finite_differences(name, options, reference) -> None:
    logits, _, batch = make(4)
    assert torch.autograd.gradcheck(lambda x: step_loss(name, options, x, batch), (logits,))


@pytest.mark.parametrize("name", ["sdpo", "minillm", "tsd_kd"])
def test_gradient_by_finite_differences_with_the_stopped_parts_held(name: str) -> None:
    """The stopped weights are made constant from outside: importance by a matching behaviour, rewards by gamma 0 and
    a length-one return, confidence by equal entropies given by the batch."""
    logits, _, batch = make(5)
    options: dict[str, object] = {}
    if name == "sdpo":  # the weight is min(r, 2) with r > 2 everywhere: a constant
        batch = replace(batch, behaviour_logprobs_N=batch.behaviour_logprobs_N - 5.0)
    if name == "minillm":  # no return, and the weight of the single step clipped to a constant
        options = {"gamma": 0.0}
        batch = replace(batch, behaviour_logprobs_N=batch.behaviour_logprobs_N - 5.0)
    if name == "tsd_kd":  # sigma saturates at 1
        options = {"candidates": 3, "opener": 0.6}
        batch = replace(batch, teacher_entropy_N=torch.full_like(batch.behaviour_logprobs_N, -60.0))
    assert torch.autograd.gradcheck(lambda x: step_loss(name, options, x, batch), (logits,))


def test_plackett_luce_runs_the_right_way_in_paper_mode_and_the_wrong_way_in_released() -> None:
    """dL/ds at equal scores over ten candidates, best first."""
    ids = torch.arange(10)[None]
    teacher = -torch.arange(10, dtype=torch.float64)[None]
    zero = torch.zeros(1, dtype=torch.float64)
    for mode, best, worst in (("paper", -0.900, 1.929), ("released", 1.929, -0.900)):
        scores = torch.full((1, 10), -2.5, dtype=torch.float64).requires_grad_()
        batch = TokenBatch(
            sampled_ids_N=torch.zeros(1, dtype=torch.int64), behaviour_logprobs_N=zero, support_ids_NK=ids,
            rollout_N=torch.zeros(1, dtype=torch.int64), advantage_R=zero, reward_R=zero, teacher_support_NK=teacher,
        )  # fmt: skip
        (grad,) = torch.autograd.grad(
            get_objective("tsd_kd", mode=mode).ranking(HeadStats(zero, scores, zero), batch).sum(), scores
        )
        order = teacher[0].argsort(descending=True)
        assert grad[0, order[0]].item() == pytest.approx(best, abs=1e-3)
        assert grad[0, order[-1]].item() == pytest.approx(worst, abs=1e-3)


CUTTABLE = [case for case in CASES if case[1].get("mode") != "released"]


@pytest.mark.parametrize(("name", "options", "reference"), CUTTABLE, ids=map(case_id, CUTTABLE))
def test_the_sums_do_not_depend_on_the_cut_into_micro_batches(name, options, reference) -> None:
    logits, _, batch = make(6)
    objective = get_objective(name, **options)
    keep = torch.arange(len(batch.rollout_N)) % 3 != 0
    whole = raw_sums(objective.token_losses(stats_of(logits, batch), batch), keep)
    loss, count = 0.0, 0.0
    for r in range(len(LENGTHS)):
        rows = (batch.rollout_N == r).nonzero()[:, 0]
        part = batch.take(rows)
        part = replace(
            part,
            rollout_N=part.rollout_N - r,
            advantage_R=batch.advantage_R[r : r + 1],
            reward_R=batch.reward_R[r : r + 1],
        )
        sums = raw_sums(objective.token_losses(stats_of(logits[rows], part), part), keep[rows])
        loss, count = loss + sums.loss.item(), count + sums.count.item()
    assert (loss, count) == pytest.approx((whole.loss.item(), whole.count.item()), rel=1e-9)


def test_the_gate_leaves_the_reinforcement_part_alone() -> None:
    logits, _, batch = make(7)
    nothing = torch.zeros_like(batch.rollout_N, dtype=torch.bool)
    grpo = get_objective("grpo", normalise="token")
    want = raw_sums(grpo.token_losses(stats_of(logits, batch), batch), ~nothing)
    for name, options in (
        ("kdrl", {}),
        ("weighted_sum", {"parts": [{"name": "rg_opd"}, {"name": "grpo", "options": {"normalise": "token"}}]}),
    ):
        got = raw_sums(get_objective(name, **options).token_losses(stats_of(logits, batch), batch), nothing)
        torch.testing.assert_close((got.loss, got.count), (want.loss, want.count))


def test_mixed_denominators_and_missing_inputs_say_what_to_do() -> None:
    logits, _, batch = make(8)
    stats = stats_of(logits, batch)
    mixed = get_objective("weighted_sum", parts=[{"name": "grpo"}, {"name": "jsd"}])
    with pytest.raises(ValueError, match="normalise: token"):
        mixed.token_losses(stats, batch)
    with pytest.raises(ValueError, match="reference_logprobs_N"):
        get_objective("grpo", reference_kl=0.1).token_losses(stats, replace(batch, reference_logprobs_N=None))
    with pytest.raises(ValueError, match="sampled tokens"):
        get_objective("kdrl").token_losses(stats, replace(batch, teacher_sampled_N=None))
    with pytest.raises(ValueError, match="need_entropy"):
        get_objective("tsd_kd").token_losses(replace(stats, entropy_N=None), batch)
    with pytest.raises(ValueError, match="cannot hold another"):
        get_objective("weighted_sum", parts=[{"name": "weighted_sum"}])
    with pytest.raises(ValueError, match="unknown objective 'nope'"):
        get_objective("weighted_sum", parts=[{"name": "nope"}])
