"""A bias of the head and a soft-cap of its logits, in one pass and in two, against plain float64 autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rgopd.trainer.losses.fused import fused_topk_kl
from rgopd.trainer.losses.head import head_stats
from rgopd.trainer.losses.tiles import Kernels
from tests.unit.trainer.losses.test_head import case, plain, scalar

VOCAB = 19
AFTER = [(True, 0.0), (False, 2.5), (True, 2.5)]
"""(has a bias, soft_cap); logits of these cases go to about 6, so the cap bends them."""


def inputs(seed: int, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    hidden, weight, sampled, support = case(6, 4, VOCAB, 2, 5, 1, seed)
    draw = torch.randn(len(weight), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sampled[0] = support[1].max() if len(support) > 1 else sampled[0]
    return hidden, weight, draw.requires_grad_() if bias else None, sampled, support


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float) -> Tensor:
    logits = hidden @ weight.t() if bias is None else hidden @ weight.t() + bias
    return cap * torch.tanh(logits / cap) if cap else logits


def gradients(loss: Tensor, tensors: list[Tensor | None]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [t for t in tensors if t is not None]))


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(("bias", "cap"), AFTER)
@pytest.mark.parametrize("chunk", [7, 10_000])
def test_two_passes(kernels: Kernels, entropy: bool, bias: bool, cap: float, chunk: int) -> None:
    dtype = torch.float64 if kernels == "torch" else torch.float32  # Triton's tiles are float32
    hidden, weight, bias_V, sampled, support = inputs(3, bias)
    logits = reference(hidden, weight, bias_V, cap)
    want = plain(logits, torch.eye(logits.shape[1], dtype=logits.dtype), sampled, support, temperature=0.7, vocab=VOCAB)
    if not entropy:
        want = type(want)(want.sampled_logprobs_N, want.support_logprobs_NK, want.tail_logprob_N)
    expected = gradients(scalar(want), [hidden, weight, bias_V])
    given = [None if t is None else t.detach().to(dtype).requires_grad_() for t in (hidden, weight, bias_V)]
    options = {"temperature": 0.7, "vocab_size": VOCAB, "chunk_size": chunk, "need_entropy": entropy}
    got = head_stats(given[0], given[1], sampled, support, bias_V=given[2], soft_cap=cap, kernels=kernels, **options)  # type: ignore[arg-type]
    tolerance = {"atol": 1e-10, "rtol": 1e-9} if dtype == torch.float64 else {"atol": 3e-5, "rtol": 3e-4}
    torch.testing.assert_close(got.sampled_logprobs_N.double(), want.sampled_logprobs_N, **tolerance)
    for mine, theirs in zip(gradients(scalar(got), given), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, **tolerance)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize(("bias", "cap"), AFTER)
@pytest.mark.parametrize("chunk", [40, 10_000])
def test_one_pass(kernels: Kernels, bias: bool, cap: float, chunk: int) -> None:
    hidden, weight, bias_V, sampled, support = (
        t if t is None or not t.is_floating_point() else t.detach().float().requires_grad_() for t in inputs(5, bias)
    )
    teacher = torch.full(support.shape, -3.0)
    tail, weights = torch.full((len(support),), -1.0), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    options = {"temperature": 1.3, "vocab_size": VOCAB, "bias_V": bias_V, "soft_cap": cap}
    fused = fused_topk_kl(
        hidden, weight, sampled, support, teacher, tail, weights, chunk_size=chunk, kernels=kernels, **options
    )
    stats = head_stats(hidden, weight, sampled, support, kernels="torch", **options)
    from rgopd.trainer.losses.buckets import bucket_logprobs
    from rgopd.trainer.losses.divergences import reverse_kl

    student = bucket_logprobs(stats.support_logprobs_NK, stats.tail_logprob_N, support, "tail")
    loss = (reverse_kl(student, bucket_logprobs(teacher, tail, support, "tail")) * weights).sum()
    torch.testing.assert_close(fused.loss, loss, atol=1e-5, rtol=1e-5)
    tensors = [hidden, weight, bias_V]
    for mine, theirs in zip(gradients(fused.loss, tensors), gradients(loss, tensors), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_a_bias_or_cap_that_does_not_fit_is_refused() -> None:
    hidden, weight, _, sampled, support = inputs(1, False)
    with pytest.raises(ValueError, match=r"want a bias \[V\]"):
        head_stats(hidden, weight, sampled, support, bias_V=torch.zeros(3), vocab_size=VOCAB)
    with pytest.raises(ValueError, match="soft_cap must be positive"):
        head_stats(hidden, weight, sampled, support, soft_cap=-1.0, vocab_size=VOCAB)
