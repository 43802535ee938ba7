"""Rollouts of several turns: whatever is counted, gated or trained on is the student's own, against sums by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rgopd.common import wire
from rgopd.common.errors import InvalidInput
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.trainer.batch.micro_batch import BatchOptions, MicroBatch, Part, assemble, prefiltered
from rgopd.trainer.batch.part import read_part
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.registry import names
from rgopd.trainer.objectives.step import HeadLoss, head_loss

V, K, C = 23, 4, 3
TURNS = {"a": [1, 1, 0, 0, 0, 1, 1, 1], "b": [1, 0, 1], "c": [1, 1, 1, 1], "d": [1, 0, 0, 1, 1, 0, 1]}
"""1: the student's, 0: the environment's."""
ADVANTAGE = {"a": 1.0, "b": -1.0, "c": 0.5, "d": -0.5}


def messages(name: str, noise: int = 0) -> tuple[rollout_pb2.Rollout, teacher_pb2.TeacherScore]:
    """A stored rollout and its score. `noise`: another value wherever the environment spoke, but in the ids."""
    own = np.array(TURNS[name], dtype=np.int32)
    rng, length = np.random.default_rng(ord(name)), len(own)
    junk = np.random.default_rng(noise)

    def tensor(values: np.ndarray, dtype: str = "float32") -> Any:
        values = values.astype(dtype)
        if noise and dtype == "float32":
            values[own == 0] = -junk.random(values[own == 0].shape) * 9
        return wire.to_tensor(values)

    support = np.stack([rng.permutation(V)[:K] for _ in range(length)])
    support[own == 0] = -1
    shares = rng.dirichlet(np.ones(K + 1), length)
    rollout = rollout_pb2.Rollout(
        header=wire.header("run", name),
        prompt_ids=wire.to_tensor(rng.integers(0, V, C).astype(np.int32)),
        response_ids=tensor(rng.integers(0, V, length), "int32"),
        sampled_logprobs=tensor(-rng.random(length) * 3),
        support_ids=tensor(support, "int32"),
    )
    if not own.all():
        rollout.own.CopyFrom(wire.to_tensor(own))
    score = teacher_pb2.TeacherScore(
        sampled_logprobs=tensor(-rng.random(length) * 3),
        topk_logprobs=tensor(np.log(shares[:, :K])),
        tail_logprob=tensor(np.log(shares[:, K])),
    )
    return rollout, score


def plan(name: str) -> RolloutPlan:
    return RolloutPlan(name, C, sum(TURNS[name]), float(ADVANTAGE[name] > 0), ADVANTAGE[name], 0)


def parts(chosen: str, noise: int = 0) -> list[Part]:
    return [read_part(name, *messages(name, noise), BatchOptions(True, 1)) for name in chosen]


def micro(chosen: str = "abcd", *, packing: bool = False, noise: int = 0) -> MicroBatch:
    return assemble(parts(chosen, noise), [plan(n) for n in chosen], step=3, total_steps=9, packing=packing)


def table() -> tuple[Tensor, Tensor]:
    """A student whose hidden state is a function of the last two tokens: every position matters. float64."""
    rng = torch.Generator().manual_seed(5)
    made = [torch.randn(V, 6, generator=rng, dtype=torch.float64) for _ in range(2)]
    return made[0], made[1].requires_grad_()


def hidden_of(ids_BS: Tensor, embedding: Tensor) -> Tensor:
    found = embedding[ids_BS]
    return (found + 0.5 * torch.cat([torch.zeros_like(found[:, :1]), found[:, :-1]], 1)).flatten(0, 1)


def loss_of(batch: MicroBatch, name: str, gate: GateConfig, **options: Any) -> tuple[HeadLoss, Tensor]:
    embedding, weight = table()
    tokens = doubled(batch.tokens)
    tokens = dataclasses.replace(tokens, reference_logprobs_N=tokens.behaviour_logprobs_N - 0.1)
    objective = get_objective(name, **options)
    result = head_loss(hidden_of(batch.input_ids_BS, embedding)[batch.rows_N], weight, tokens, objective, gate)
    (gradient,) = torch.autograd.grad(result.sums.loss, weight)
    return result, gradient


def doubled(batch: TokenBatch) -> TokenBatch:
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    floats = {k: v.double() for k, v in fields.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return dataclasses.replace(batch, **floats)


def by_hand(chosen: str = "abcd") -> tuple[Tensor, TokenBatch]:
    """Hidden states and tokens gathered one at a time, by a loop over the stored messages."""
    embedding, _ = table()
    hidden, flat = [], {key: [] for key in ("ids", "behaviour", "support", "teacher", "topk", "tail", "rollout")}
    for r, name in enumerate(chosen):
        rollout, score = messages(name)
        ids = [*wire.from_tensor(rollout.prompt_ids).tolist(), *wire.from_tensor(rollout.response_ids).tolist()]
        for t, own in enumerate(TURNS[name]):
            if own:
                at = C + t
                hidden.append(embedding[ids[at - 1]] + 0.5 * embedding[ids[at - 2]])
                flat["ids"].append(ids[at])
                flat["behaviour"].append(wire.from_tensor(rollout.sampled_logprobs)[t])
                flat["support"].append(wire.from_tensor(rollout.support_ids)[t])
                flat["teacher"].append(wire.from_tensor(score.sampled_logprobs)[t])
                flat["topk"].append(wire.from_tensor(score.topk_logprobs)[t])
                flat["tail"].append(wire.from_tensor(score.tail_logprob)[t])
                flat["rollout"].append(r)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in flat.items()}
    batch = TokenBatch(
        sampled_ids_N=tensors["ids"].long(),
        behaviour_logprobs_N=tensors["behaviour"],
        support_ids_NK=tensors["support"].long(),
        rollout_N=tensors["rollout"].long(),
        advantage_R=torch.tensor([ADVANTAGE[n] for n in chosen]),
        reward_R=torch.tensor([float(ADVANTAGE[n] > 0) for n in chosen]),
        teacher_sampled_N=tensors["teacher"],
        teacher_support_NK=tensors["topk"],
        teacher_tail_N=tensors["tail"],
        step=3,
        total_steps=9,
    )
    batch = doubled(batch)
    return torch.stack(hidden), dataclasses.replace(batch, reference_logprobs_N=batch.behaviour_logprobs_N - 0.1)


GATES = {
    "off": GateConfig(enabled=False),
    "paper": GateConfig(),
    "token": GateConfig(granularity="token", zero_advantage="mask"),
    "chunk": GateConfig(granularity="chunk", chunk_size=2),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "weighted_sum": {"parts": [{"name": "rg_opd"}, {"name": "grpo", "weight": 0.3, "options": {"normalise": "token"}}]},
    "grpo": {"reference_kl": 0.1, "normalise": "constant", "max_tokens": 9},
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", names())
def test_every_objective_sees_the_students_tokens_alone(name: str, gate: str) -> None:
    """Sums, gate and gradient are those of tokens gathered by a loop, whatever stands at the environment's."""
    hidden_ND, batch = by_hand()
    _, weight = table()
    objective = get_objective(name, **OPTIONS.get(name, {}))
    wanted = head_loss(hidden_ND, weight, batch, objective, GATES[gate])
    (gradient,) = torch.autograd.grad(wanted.sums.loss, weight)
    for found in (micro(), micro(packing=True), micro(noise=8)):
        result, its_gradient = loss_of(found, name, GATES[gate], **OPTIONS.get(name, {}))
        assert result.sums.loss.item() == pytest.approx(wanted.sums.loss.item(), rel=1e-12, abs=1e-12)
        assert result.sums.count.item() == wanted.sums.count.item()
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-10, atol=1e-12)
        assert {k: v.item() for k, v in result.decision.stats.items()} == pytest.approx(
            {k: v.item() for k, v in wanted.decision.stats.items()}
        )


def test_a_conversations_loss_is_the_sum_by_hand() -> None:
    """Eq. 1 to 4 of rollout "a" in plain float64: gate by its five own tokens, their divergence over five."""
    embedding, weight = table()
    rollout, score = messages("a")
    ids = [*wire.from_tensor(rollout.prompt_ids).tolist(), *wire.from_tensor(rollout.response_ids).tolist()]
    gap, losses = 0.0, []
    for t in (0, 1, 5, 6, 7):
        hidden = embedding[ids[C + t - 1]] + 0.5 * embedding[ids[C + t - 2]]
        logits = [float(x) for x in (weight.detach() @ hidden)]
        normaliser = math.log(math.fsum(map(math.exp, logits)))
        student = [x - normaliser for x in logits]
        support = wire.from_tensor(score.topk_logprobs)[t].astype(float)
        named = [student[i] for i in wire.from_tensor(rollout.support_ids)[t]]
        tails = (
            math.log(-math.expm1(math.log(math.fsum(map(math.exp, named))))),
            float(wire.from_tensor(score.tail_logprob)[t]),
        )
        pairs = [*zip(named, support, strict=True), tails]
        losses.append(math.fsum(math.exp(s) * (s - teacher) for s, teacher in pairs))
        gap += float(wire.from_tensor(score.sampled_logprobs)[t]) - student[ids[C + t]]
    for sign in (1.0, -1.0):
        batch = micro("a")
        tokens = dataclasses.replace(batch.tokens, advantage_R=torch.tensor([sign]))
        result, _ = loss_of(dataclasses.replace(batch, tokens=tokens), "rg_opd", GateConfig())
        kept = (gap > 0) == (sign > 0)
        assert result.sums.count.item() == (5.0 if kept else 0.0)
        assert result.sums.loss.item() == pytest.approx(math.fsum(losses) if kept else 0.0, rel=1e-6)


def test_lengths_and_budgets() -> None:
    batch = micro()
    assert batch.tokens.tokens_R().tolist() == [5, 2, 4, 4]
    assert batch.sequence_tokens == sum(C + len(turns) for turns in TURNS.values())
    long = dataclasses.replace(plan("a"), observation_tokens=3)
    assert (long.response_tokens, long.tokens) == (5, C + 8)


def test_the_prefilter_counts_own_tokens() -> None:
    options = BatchOptions(needs_teacher=True, total_steps=9)
    found = prefiltered(parts("abcd"), [plan(n) for n in "abcd"], options, GateConfig(), step=3)
    assert found.dropped is not None
    assert found.dropped.tokens + len(found.tokens.sampled_ids_N) == 15


@pytest.mark.parametrize("own", [[1, 1], [0] * 8, [2, 1, 0, 0, 0, 1, 1, 1]])
def test_a_mask_that_does_not_fit_is_refused(own: list[int]) -> None:
    rollout, score = messages("a")
    rollout.own.CopyFrom(wire.to_tensor(np.array(own, dtype=np.int32)))
    with pytest.raises(InvalidInput, match=r"a\.own"):
        read_part("a", rollout, score, BatchOptions(True, 1))


ALIGNED = {"a": [0, 0, -1, -1, -1, 1, 2, 2], "d": [0, -1, -1, 1, -1, -1, -1]}
"""Chunks end with a turn; the teacher could not follow the second turn of "d" to its end."""


def aligned(name: str, noise: int = 0) -> Part:
    """A conversation scored by a teacher with another tokenizer."""
    rollout, score = messages(name, noise)
    chunk_T = np.array(ALIGNED[name], dtype=np.int32)
    score.aligned.CopyFrom(wire.to_tensor(chunk_T))
    lone_T = np.array([c >= 0 and (chunk_T == c).sum() == 1 for c in chunk_T])
    score.topk_ids.CopyFrom(wire.to_tensor(np.where(lone_T[:, None], wire.from_tensor(rollout.support_ids), -1)))
    return read_part(name, rollout, score, BatchOptions(True, 1, aligns=True))


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("gate", GATES)
def test_across_tokenizers_too_it_is_the_students_tokens_alone(gate: str, packing: bool) -> None:
    """Loss, count and gate of the log-ratio of aligned chunks in plain float64, own tokens with a value, no others."""
    chosen = "ad"
    found = [
        assemble([aligned(n, noise) for n in chosen], [plan(n) for n in chosen], step=3, total_steps=9, packing=packing)
        for noise in (0, 8)
    ]
    embedding, weight = table()
    kept, losses = 0, []
    for name in chosen:
        rollout, score = messages(name)
        ids = [*wire.from_tensor(rollout.prompt_ids).tolist(), *wire.from_tensor(rollout.response_ids).tolist()]
        teacher, gaps = wire.from_tensor(score.sampled_logprobs), []
        for t, chunk in enumerate(ALIGNED[name]):
            if chunk >= 0:
                hidden = embedding[ids[C + t - 1]] + 0.5 * embedding[ids[C + t - 2]]
                gaps.append((chunk, float((weight.detach() @ hidden).log_softmax(0)[ids[C + t]]) - float(teacher[t])))
        sums = {c: math.fsum(gap for chunk, gap in gaps if chunk == c) for c, _ in gaps}
        wanted = ADVANTAGE[name] > 0
        if gate == "token":
            chunks = {c for c in sums if (sums[c] < 0) == wanted}
        elif gate == "chunk":  # two tokens of the student's each; a chunk belongs where it begins
            own = [c for c, own in zip(ALIGNED[name], TURNS[name], strict=True) if own]
            groups: dict[int, set[int]] = {}
            for c in sums:
                groups.setdefault(own.index(c) // 2, set()).add(c)
            chunks = {c for g in groups.values() if (sum(sums[c] for c in g) < 0) == wanted for c in g}
        else:
            chunks = set(sums) if gate == "off" or (math.fsum(sums.values()) < 0) == wanted else set()
        kept += sum(c in chunks for c, _ in gaps)
        losses += [sums[c] for c in chunks]
    for batch in found:
        result, gradient = loss_of(batch, "reverse_kl", GATES[gate])
        assert result.sums.count.item() == kept
        assert result.sums.loss.item() == pytest.approx(math.fsum(losses), rel=1e-6, abs=1e-9)
        torch.testing.assert_close(gradient, loss_of(found[0], "reverse_kl", GATES[gate])[1], rtol=1e-10, atol=1e-12)
