"""Both ways over the logits against float64: PyTorch's operators, and the Triton kernel (on a CPU under its
interpreter: tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rgopd.common.head import AfterHead
from rgopd.teacher.engines.rows import RowScores, choose, disagreement
from rgopd.teacher.items import PAD_ID, PAD_LOGPROB, TAIL_FLOOR, Scoring, SupportKind

CPU = torch.device("cpu")
AFTER = {"plain": AfterHead(), "scaled": AfterHead(scale=0.25), "capped": AfterHead(soft_cap=5.0)}

Way = Callable[..., RowScores]


@pytest.fixture(params=["torch", "triton"])
def way(request: pytest.FixtureRequest) -> Way:
    return choose(request.param, CPU)


def exact(logits_RV: Tensor, scoring: Scoring, vocab: int, after: AfterHead) -> Tensor:
    """float64 log-probs [R, V]."""
    logits_RV = logits_RV[:, :vocab].double() * after.scale
    if after.soft_cap:
        logits_RV = after.soft_cap * torch.tanh(logits_RV / after.soft_cap)
    return (logits_RV / scoring.temperature).log_softmax(-1)


def rows_of(vocab: int, k: int, rows: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with 5 surplus ids of large logits, sampled ids, a support; row 0's sampled id lies in its support."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab + 5, generator=rng) * 3
    logits[:, vocab:] = 40.0
    support = torch.stack([torch.randperm(vocab, generator=rng)[:k] for _ in range(rows)])
    sampled = torch.randint(vocab, (rows,), generator=rng)
    sampled[0] = support[0, 0]
    return logits, sampled, support


def check(found: RowScores, logprobs_RV: Tensor, sampled: Tensor, scoring: Scoring) -> None:
    torch.testing.assert_close(
        found.sampled_R.double(), logprobs_RV.gather(1, sampled[:, None])[:, 0], atol=1e-5, rtol=0
    )
    real_RK = found.ids_RK != PAD_ID
    at_RK = logprobs_RV.gather(1, found.ids_RK.clamp(min=0)).masked_fill(~real_RK, PAD_LOGPROB)
    torch.testing.assert_close(found.topk_RK.double(), at_RK, atol=1e-5, rtol=0)
    rest_RV = logprobs_RV.exp()
    for row, ids in zip(rest_RV, found.ids_RK, strict=True):
        row[ids[ids >= 0]] = 0
    if scoring.support != "none":
        torch.testing.assert_close(found.tail_R.double(), rest_RV.sum(1).log().clamp(min=TAIL_FLOOR), atol=1e-4, rtol=0)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("support", ["student", "teacher", "none"])
@pytest.mark.parametrize(("vocab", "k"), [(37, 4), (9001, 50), (17, 17), (300, 1)])
def test_equals_float64(way: Way, support: SupportKind, vocab: int, k: int, temperature: float, after: str) -> None:
    logits, sampled, ids = rows_of(vocab, k)
    if k < vocab:
        ids[1, -1] = PAD_ID
        ids[2] = PAD_ID
    scoring = Scoring(support, 0 if support == "none" else k, temperature)
    given = ids if support == "student" else None
    found = way(logits.clone(), sampled, given, scoring, vocab, AFTER[after])
    logprobs_RV = exact(logits, scoring, vocab, AFTER[after])
    check(found, logprobs_RV, sampled, scoring)
    if support == "teacher":
        torch.testing.assert_close(found.topk_RK.double(), logprobs_RV.topk(k).values, atol=1e-5, rtol=0)


def test_the_tail_keeps_its_precision_when_the_support_holds_nearly_everything(way: Way) -> None:
    logits = torch.tensor([[0.0, -14.0, -15.0, -16.0], [30.0, 16.0, 15.0, 14.0]])
    found = way(logits.clone(), torch.tensor([0, 0]), torch.tensor([[0], [0]]), Scoring("student", 1), 4)
    wanted = torch.logsumexp(logits[:, 1:].double(), 1) - torch.logsumexp(logits.double(), 1)
    torch.testing.assert_close(found.tail_R.double(), wanted, atol=1e-5, rtol=0)


def test_a_nan_shows_in_its_row_and_no_other(way: Way) -> None:
    logits, sampled, ids = rows_of(50, 3)
    logits[1, 7] = float("nan")
    found = way(logits, sampled, ids, Scoring("student", 3), 50)
    np.testing.assert_array_equal(found.sampled_R.isnan().numpy(), [False, True, False, False])


def test_what_a_gpu_is_asked_before_it_is_trusted() -> None:
    kernel = choose("triton", CPU)
    assert disagreement(kernel, CPU) < 1e-5

    def wrong(*args: object) -> RowScores:
        found = kernel(*args)  # type: ignore[arg-type]
        return found._replace(tail_R=found.tail_R + 0.5)

    assert disagreement(wrong, CPU) > 0.4


def test_pytorchs_operators_are_used_without_a_gpu() -> None:
    assert choose("auto", CPU) is choose("torch", CPU)
    assert choose("triton", CPU) is not choose("torch", CPU)
