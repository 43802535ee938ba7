"""Triton's passes over the logits give what PyTorch's give; here under Triton's interpreter, on a CPU
(tests/conftest.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rgopd.trainer.losses.buckets import tail_logprob
from rgopd.trainer.losses.choice import choose, disagreement
from rgopd.trainer.losses.fused import fused_topk_kl
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.losses.tiles import RowStats
from rgopd.trainer.losses.triton_tiles import TritonTiles
from tests.unit.trainer.losses.test_head import case, scalar

CASES = {
    "plain": {"rows": 5, "k": 4, "vocab": 37, "surplus": 0, "pad": 0},
    "surplus vocabulary and padding": {"rows": 4, "k": 3, "vocab": 50, "surplus": 6, "pad": 2},
    "one id": {"rows": 3, "k": 1, "vocab": 19, "surplus": 0, "pad": 0},
    "the whole vocabulary": {"rows": 3, "k": 17, "vocab": 17, "surplus": 1, "pad": 1},
    "more than a block": {"rows": 2, "k": 50, "vocab": 9001, "surplus": 0, "pad": 0},
}


def both(name: str, dtype: torch.dtype, **options: object) -> list[tuple[HeadStats, list[Tensor]]]:
    """Statistics and gradients by either implementation."""
    found = []
    for kernels in ("torch", "triton"):
        hidden, weight, sampled, support = case(dim=8, seed=1, **CASES[name])
        sampled[0] = support[0].max()  # an id that is sampled and in the support
        hidden, weight = (x.detach().to(dtype).requires_grad_() for x in (hidden, weight))
        stats = head_stats(
            hidden, weight, sampled, support, vocab_size=CASES[name]["vocab"], kernels=kernels, **options
        )
        if (
            CASES[name]["k"] == CASES[name]["vocab"]
        ):  # an empty tail's gradient is the noise of rounding, 1/p_tail times
            stats = replace(stats, tail_logprob_N=stats.tail_logprob_N.detach())
        scalar(stats).backward()
        found.append((stats, [hidden.grad, weight.grad]))
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("entropy", [False, True])
def test_values_and_gradients_are_pytorchs(name: str, temperature: float, entropy: bool) -> None:
    (want, want_grads), (got, got_grads) = both(
        name, torch.float32, temperature=temperature, need_entropy=entropy, chunk_size=3000
    )
    for field in ["sampled_logprobs_N", "support_logprobs_NK", *(["entropy_N"] if entropy else [])]:
        torch.testing.assert_close(getattr(got, field), getattr(want, field), atol=3e-6, rtol=3e-6)
    torch.testing.assert_close(got.tail_logprob_N.exp(), want.tail_logprob_N.exp(), atol=3e-7, rtol=3e-6)
    for got_grad, want_grad in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(got_grad, want_grad, atol=2e-5, rtol=2e-4)


def test_a_small_tail_is_not_drowned() -> None:
    """At a logsumexp of 20, float32 steps by 2e-6: log p must be (x - max) - log(sum)."""
    logits = torch.full((1, 6), 5.0)
    logits[0, 0] = 20.0
    stats = TritonTiles().reduce_(logits, torch.tensor([0]), torch.tensor([[0, 1]]), False, 1.0)
    want = torch.log_softmax(torch.tensor([[20.0, 5, 5, 5, 5, 5]], dtype=torch.float64), -1)
    assert abs(stats.sampled_N.double() - want[:, 0]) < 1.2e-7  # a rounding of 1 + 1.5e-6


def test_bfloat16_gradients_are_rounded_once() -> None:
    (want, want_grads), (got, got_grads) = both("more than a block", torch.bfloat16, chunk_size=1 << 14)
    torch.testing.assert_close(got.support_logprobs_NK, want.support_logprobs_NK, atol=1e-5, rtol=1e-5)
    for got_grad, want_grad in zip(got_grads, want_grads, strict=True):
        error = (got_grad.float() - want_grad.float()).norm() / want_grad.float().norm()
        assert error < 1e-2


@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_the_one_pass_loss(chunk: int) -> None:
    found = []
    for kernels in ("torch", "triton"):
        hidden, weight, sampled, support = case(6, 5, 40, 2, 8, 1, seed=3)
        hidden, weight = (x.detach().float().requires_grad_() for x in (hidden, weight))
        teacher = torch.randn(support.shape, generator=torch.Generator().manual_seed(4)).sub(6.0)
        keep = torch.tensor([1.0, 0, 1, 1, 0, 1])
        out = fused_topk_kl(
            hidden, weight, sampled, support, teacher, tail_logprob(teacher), keep,
            vocab_size=40, chunk_size=chunk, temperature=0.8, kernels=kernels,
        )  # fmt: skip
        out.loss.backward()
        found.append((out.loss.detach(), hidden.grad, weight.grad))
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_what_a_gpu_is_asked_before_it_is_trusted() -> None:
    assert disagreement(TritonTiles(), torch.device("cpu"), torch.float32) < 1e-5

    class Wrong(TritonTiles):
        def reduce_(self, *args: object) -> RowStats:
            stats = super().reduce_(*args)  # type: ignore[arg-type]
            stats.sampled_N.add_(0.5)
            return stats

    assert disagreement(Wrong(), torch.device("cpu"), torch.float32) > 1e-3


def test_pytorchs_own_are_used_without_a_gpu() -> None:
    assert choose("auto", torch.zeros(1, 1)).name == "torch"
    assert choose("triton", torch.zeros(1, 1)).name == "triton"
