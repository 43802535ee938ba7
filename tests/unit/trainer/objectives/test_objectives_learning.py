"""Toy runs: each objective, on policy, does what its paper says.

Two prompts with one right token each, a response is that one token and two more that nobody marks. On prompt 0 the
teacher is right and the student mostly wrong; on prompt 1 the teacher is sure of a wrong token and the student mostly
right: the paper's two failure modes.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rgopd.trainer.gating.advantage import group_advantage
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.losses.normalise import gradient_scale
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.step import head_loss

VOCAB, LENGTH, GROUP, K = 8, 3, 16, 4
STATES = 2 * LENGTH  # prompt x position: a response token's state does not look at the tokens before it
RIGHT = 2


def peaked(token: int, probability: float) -> Tensor:
    row = torch.full((VOCAB,), (1 - probability) / (VOCAB - 1))
    row[token] = probability
    return row.log()


def start(agreeing: bool = False) -> tuple[Tensor, Tensor]:
    """Student logits ``[STATES, V]`` and the teacher's log-probs.

    ``agreeing``: student and teacher are equal on the unmarked tokens, and on prompt 1 the student's failures are the
    teacher's wrong token, which the teacher endorses.
    """
    rng = torch.Generator().manual_seed(0)
    student = 0.5 * torch.randn(STATES, VOCAB, generator=rng)
    teacher = torch.randn(STATES, VOCAB, generator=rng).mul(1.5).log_softmax(-1)
    student[0], student[LENGTH] = peaked(RIGHT, 0.25), peaked(RIGHT, 0.75)
    teacher[0], teacher[LENGTH] = peaked(RIGHT, 0.9), peaked(5, 0.9)
    if agreeing:
        marked = torch.tensor([0, LENGTH])
        student, rest = teacher.clone(), student
        student[marked] = rest[marked]
        student[LENGTH] = peaked(RIGHT, 0.70)
        student[LENGTH, 5] = math.log(0.28)
        student[LENGTH, [0, 1, 3, 4, 6, 7]] = math.log(0.02 / 6)
    return student, teacher


def rollouts(student: Tensor, teacher: Tensor, step: int, rng: torch.Generator) -> tuple[Tensor, TokenBatch]:
    """A step's rollouts, GROUP to a prompt, sampled from the student; each token's state beside them."""
    state_N = torch.arange(STATES).view(2, 1, LENGTH).expand(2, GROUP, LENGTH).reshape(-1)
    logp = student.detach().log_softmax(-1)[state_N]
    sampled = torch.multinomial(logp.exp(), 1, generator=rng)[:, 0]
    reward_R = (sampled.view(-1, LENGTH)[:, 0] == RIGHT).float()
    support = logp.topk(K).indices
    gather = lambda table: table.gather(1, sampled[:, None])[:, 0]  # noqa: E731
    teacher_support = teacher[state_N].gather(1, support)
    return state_N, TokenBatch(
        sampled_ids_N=sampled,
        behaviour_logprobs_N=gather(logp),
        support_ids_NK=support,
        rollout_N=torch.arange(2 * GROUP).repeat_interleave(LENGTH),
        advantage_R=torch.cat([group_advantage(group) for group in reward_R.view(2, GROUP)]),
        reward_R=reward_R,
        teacher_sampled_N=gather(teacher[state_N]),
        teacher_support_NK=teacher_support,
        teacher_tail_N=torch.log1p(-teacher_support.exp().sum(-1)),
        step=step,
    )


class Run:
    """100 steps of Adam; before and after: the right token's probability per prompt, mean KL to the teacher."""

    def __init__(
        self, name: str, gate: str = "off", steps: int = 100, agreeing: bool = False, **options: object
    ) -> None:
        student, teacher = start(agreeing)
        student.requires_grad_()
        objective, config = get_objective(name, **options), gate_preset(gate)  # type: ignore[arg-type]
        optimiser = torch.optim.Adam([student], lr=0.05)
        rng = torch.Generator().manual_seed(1)
        self.before = self.measure(student, teacher)
        for step in range(steps):
            state_N, batch = rollouts(student, teacher, step, rng)
            found = head_loss(student[state_N], torch.eye(VOCAB), batch, objective, config)
            scale = gradient_scale(found.sums.count.item())
            if scale is not None:
                optimiser.zero_grad()
                (found.sums.loss * scale).backward()
                optimiser.step()
        self.after = self.measure(student, teacher)
        self.student, self.teacher = student.detach().log_softmax(-1), teacher

    @staticmethod
    def measure(student: Tensor, teacher: Tensor) -> dict[str, float]:
        logp = student.detach().log_softmax(-1)
        return {
            "reliable": logp[0, RIGHT].exp().item(),
            "unreliable": logp[LENGTH, RIGHT].exp().item(),
            "kl": (logp.exp() * (logp - teacher)).sum(-1).mean().item(),
        }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reverse_kl", {}),
        ("forward_kl", {}),
        ("jsd", {"beta": 0.5}),
        ("sdpo", {}),
        ("minillm", {}),
        ("tsd_kd", {"candidates": 3, "entropy_coefficient": 0.0}),
    ],
)
def test_ungated_distillation_imitates_the_teacher_right_or_wrong(name: str, options: dict[str, object]) -> None:
    run = Run(name, **options)
    assert run.after["kl"] < 0.35 * run.before["kl"]
    assert run.after["reliable"] > 0.8
    assert run.after["unreliable"] < 0.3, "the student unlearns what the reward certifies"


@pytest.mark.parametrize("gate", ["paper", "released"])
def test_rg_opd_learns_from_a_right_teacher_and_ignores_a_wrong_one(gate: str) -> None:
    """The paper's failure modes (i) and (ii): a success that the teacher dislikes, a failure that it endorses."""
    gated, plain = Run("rg_opd", gate, agreeing=True), Run("rg_opd", "off", agreeing=True)
    assert gated.after["reliable"] > 0.7
    assert gated.after["unreliable"] > 0.65
    assert plain.after["unreliable"] < 0.3


@pytest.mark.parametrize("gate", ["paper", "released"])
def test_a_failure_that_a_wrong_teacher_also_dislikes_opens_the_gate(gate: str) -> None:
    """What the gate cannot see (docs/decisions/022): it asks about the sampled token, the KL moves the whole state.

    A third token, wrong and disliked by the teacher, is a failure on which verdict and teacher agree. Its state is
    kept, and there the reverse KL pulls towards the teacher's own wrong token.
    """
    run = Run("rg_opd", gate)
    assert run.before["unreliable"] > 0.7
    assert run.after["unreliable"] < 0.3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalise": "token", "clip_high": 0.28},
        {"normalise": "constant", "max_tokens": LENGTH},
        {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    ],
    ids=["grpo", "dapo", "dr_grpo", "gspo"],
)
def test_grpo_raises_the_reward_without_a_teacher(options: dict[str, object]) -> None:
    run = Run("grpo", **options)
    assert run.after["reliable"] > 0.9
    assert run.after["unreliable"] > 0.9
    assert run.after["kl"] > 0.5 * run.before["kl"]


def test_grpo_with_a_reference_stays_nearer_to_the_start() -> None:
    student, _ = start()
    free = Run("grpo", steps=60)
    objective = get_objective("grpo", reference_kl=1.0)
    reference = student.log_softmax(-1)
    table, teacher = start()
    table.requires_grad_()
    optimiser, rng = torch.optim.Adam([table], lr=0.05), torch.Generator().manual_seed(1)
    for step in range(60):
        state_N, batch = rollouts(table, teacher, step, rng)
        batch = TokenBatch(
            **{
                **vars(batch),
                "reference_logprobs_N": reference[state_N].gather(1, batch.sampled_ids_N[:, None])[:, 0],
            }
        )
        found = head_loss(table[state_N], torch.eye(VOCAB), batch, objective, gate_preset("off"))
        optimiser.zero_grad()
        (found.sums.loss / found.sums.count.float()).backward()
        optimiser.step()
    held = Run.measure(table, teacher)
    assert 0.25 < held["reliable"] < free.after["reliable"]


def test_kdrl_follows_the_teacher_where_reward_is_silent_and_the_reward_where_they_disagree() -> None:
    rl, joint = Run("grpo", normalise="token"), Run("kdrl", beta=0.1)
    assert joint.after["reliable"] > 0.8
    assert joint.after["unreliable"] > 0.6
    assert joint.after["kl"] < rl.after["kl"]


def test_rlad_imitates_only_where_the_advantage_agrees() -> None:
    run = Run("rlad", alpha=0.5)
    assert run.after["reliable"] > 0.85
    assert run.after["unreliable"] > 0.75
    # A good token that the student likes more than the anchor gets no push: the mixture is its trust region.
    assert run.after["unreliable"] <= Run("grpo").after["unreliable"]


def test_minillm_prefers_what_its_future_likes_even_without_the_single_step() -> None:
    run = Run("minillm", single_step=False, gamma=0.0)
    assert run.after["kl"] < 0.6 * run.before["kl"]


def test_tsd_kd_ranking_alone_lifts_the_teachers_best_in_paper_mode_and_sinks_it_as_released() -> None:
    def best_token(mode: str) -> tuple[float, float]:
        run = Run("tsd_kd", mode=mode, candidates=3, opener=1.0, ranking_coefficient=50.0, entropy_coefficient=0.0)
        student, _ = start()
        top = student.topk(3).indices
        best = top.gather(1, run.teacher.gather(1, top).argmax(1, keepdim=True))
        return student.log_softmax(-1).gather(1, best)[:2].mean().item(), run.student.gather(1, best)[:2].mean().item()

    before, paper = best_token("paper")
    _, released = best_token("released")
    assert paper > before + 0.2
    assert released < before - 0.2


def test_tsd_kd_entropy_term_makes_the_student_surer() -> None:
    entropy = lambda run: -(run.student.exp() * run.student).sum(-1).mean()  # noqa: E731
    assert entropy(Run("tsd_kd", candidates=3, entropy_coefficient=1.0)) < entropy(
        Run("tsd_kd", candidates=3, entropy_coefficient=0.0)
    )


def test_a_weighted_sum_with_the_gate_beats_either_failure() -> None:
    parts = [{"name": "rg_opd"}, {"name": "grpo", "options": {"normalise": "token"}}]
    run = Run("weighted_sum", "paper", parts=parts)
    assert run.after["reliable"] > 0.9
    assert run.after["unreliable"] > 0.9
