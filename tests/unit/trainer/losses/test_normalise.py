from __future__ import annotations

import math

import pytest
import torch

from rgopd.trainer.losses.buckets import MIN_TAIL_LOGPROB, PAD_LOGPROB, bucket_logprobs, tail_logprob
from rgopd.trainer.losses.divergences import forward_kl, generalised_jsd, reverse_kl
from rgopd.trainer.losses.normalise import all_reduce_sums, gradient_scale, raw_sums
from rgopd.trainer.objectives import ObjectiveOutput


def test_the_denominator_counts_what_was_kept() -> None:
    loss = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    sums = raw_sums(ObjectiveOutput(loss, torch.tensor([1.0, 0.5, 0.25])), torch.tensor([True, False, True]))
    assert (sums.loss.item(), sums.count.item()) == (4.0, 1.25)
    sums.loss.backward()
    assert loss.grad.tolist() == [1.0, 0.0, 1.0]


def test_a_dropped_token_cannot_poison_the_sum() -> None:
    loss = torch.tensor([1.0, math.nan, math.inf])
    sums = raw_sums(ObjectiveOutput(loss, torch.ones(3)), torch.tensor([True, False, False]))
    assert sums.loss.item() == 1.0


def test_with_an_ungated_part_the_denominator_is_every_token() -> None:
    output = ObjectiveOutput(torch.ones(4), torch.ones(4), ungated_loss_N=torch.full((4,), 10.0))
    sums = raw_sums(output, torch.tensor([True, False, False, False]))
    assert (sums.loss.item(), sums.count.item()) == (41.0, 4.0)


@pytest.mark.parametrize(
    ("count", "kept", "fraction", "ranks", "scale"),
    [
        (0, 0.0, 0.0, 1, None),
        (4, 0.4, 0.0, 1, 0.25),
        (4, 0.4, 0.0, 2, 0.5),
        (1, 0.1, 0.2, 1, None),
        (2, 0.2, 0.2, 1, 0.5),
    ],
)
def test_gradient_scale(count, kept, fraction, ranks, scale) -> None:
    assert gradient_scale(count, kept_fraction=kept, min_kept_fraction=fraction, averaged_over=ranks) == scale


def test_sums_without_a_process_group_are_the_own() -> None:
    assert all_reduce_sums({"b": torch.tensor(2.0), "a": torch.tensor(1)}) == {"a": 1.0, "b": 2.0}
    assert all_reduce_sums({}) == {}


def test_the_tail_clamps_at_one_floor_and_takes_empty_supports() -> None:
    full = torch.tensor([[0.5, 0.5]]).log()
    assert tail_logprob(full).item() == pytest.approx(MIN_TAIL_LOGPROB, rel=1e-6)
    assert tail_logprob(torch.zeros(2, 0)).tolist() == [0.0, 0.0]
    assert tail_logprob(torch.full((1, 3), PAD_LOGPROB)).item() == 0.0
    with pytest.raises(ValueError, match="float32"):
        tail_logprob(full.bfloat16())


def test_an_empty_teacher_tail_is_floored_like_the_students() -> None:
    ids, full = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log()
    student = bucket_logprobs(full, tail_logprob(full), ids, "tail")
    teacher = bucket_logprobs(full, torch.tensor([-math.inf]), ids, "tail")
    assert reverse_kl(student, teacher).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("mode", ["tail", "none", "renormalise"])
def test_infinite_padding_never_reaches_a_gradient(mode: str) -> None:
    ids = torch.tensor([[3, 1, -1]])
    student = torch.tensor([[-0.5, -2.0, PAD_LOGPROB]], requires_grad=True)
    teacher = torch.tensor([[-0.7, -1.5, -math.inf]])
    p = bucket_logprobs(student, tail_logprob(student), ids, mode)
    q = bucket_logprobs(teacher, tail_logprob(teacher), ids, mode)
    loss = reverse_kl(p, q) + forward_kl(p, q) + generalised_jsd(p, q, 0.3)
    (grad,) = torch.autograd.grad(loss.sum(), student)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(grad).all()
    assert grad[0, 2] == 0.0


def test_jsd_is_bounded_and_its_ends_are_the_two_kls() -> None:
    p, q = torch.tensor([[0.999, 0.001]]).log(), torch.tensor([[1e-30, 1.0]]).log()
    assert generalised_jsd(p, q, 0.5).item() <= math.log(2) + 1e-6
    assert generalised_jsd(p, q, 0.0).item() == forward_kl(p, q).item()
    assert generalised_jsd(p, q, 1.0).item() == reverse_kl(p, q).item()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        generalised_jsd(p, q, 1.5)
    with pytest.raises(ValueError, match="unknown tail mode"):
        bucket_logprobs(p, p[:, 0], torch.tensor([[0, 1]]), "tali")
