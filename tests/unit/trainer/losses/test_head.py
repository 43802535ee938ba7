"""head_stats against a plain float64 reference that does hold [N, V]."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.losses.head import HeadStats, head_stats

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def plain(
    hidden: Tensor, weight: Tensor, sampled: Tensor, support: Tensor, *, temperature: float, vocab: int
) -> HeadStats:
    logits = hidden @ weight.t() / temperature
    logits = torch.cat([logits[:, :vocab], torch.full_like(logits[:, vocab:], -torch.inf)], 1)
    logp = logits.log_softmax(-1)
    rows = torch.arange(len(sampled))
    support_logp = torch.stack(
        [torch.where(ids < 0, PAD_LOGPROB, logp[rows, ids.clamp(min=0)]) for ids in support.t()], 1
    )
    p = torch.where(support < 0, 0.0, support_logp.exp())
    tail = torch.log((1 - p.sum(-1)).clamp(min=-torch.expm1(torch.tensor(-1e-7, dtype=torch.float64)).item()))
    real = logp[:, :vocab]
    return HeadStats(logp[rows, sampled], support_logp, tail, -(real.exp() * real).sum(-1))


def case(rows: int, k: int, vocab: int, surplus: int, dim: int, pad: int, seed: int, spread: float = 1.0):
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=rng, dtype=torch.float64) * spread
    weight = torch.randn(vocab + surplus, dim, generator=rng, dtype=torch.float64)
    sampled = torch.randint(vocab, (rows,), generator=rng)
    support = torch.stack([torch.randperm(vocab, generator=rng)[:k] for _ in range(rows)])
    if pad:
        support = torch.cat([support, torch.full((rows, pad), -1)], 1)
        support[0, 0] = -1
    return hidden.requires_grad_(), weight.requires_grad_(), sampled, support


def scalar(stats: HeadStats, seed: int = 0) -> Tensor:
    """A random linear functional of everything that is differentiable; padding is left to the caller's mask."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda value: torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value)  # noqa: E731
    real = stats.support_logprobs_NK > PAD_LOGPROB
    total = (draw(stats.sampled_logprobs_N) * stats.sampled_logprobs_N).sum()
    total = total + torch.where(real, draw(stats.support_logprobs_NK) * stats.support_logprobs_NK, 0.0).sum()
    total = total + (draw(stats.tail_logprob_N) * stats.tail_logprob_N).sum()
    return total if stats.entropy_N is None else total + (draw(stats.entropy_N) * stats.entropy_N).sum()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    k=st.integers(1, 6),
    vocab=st.integers(7, 23),
    surplus=st.integers(0, 3),
    pad=st.integers(0, 2),
    chunk=st.integers(1, 200),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
    entropy=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_values_and_gradients(rows, k, vocab, surplus, pad, chunk, temperature, entropy, seed) -> None:
    hidden, weight, sampled, support = case(rows, k, vocab, surplus, 5, pad, seed)
    want = plain(hidden, weight, sampled, support, temperature=temperature, vocab=vocab)
    got = head_stats(
        hidden, weight, sampled, support,
        temperature=temperature, vocab_size=vocab, chunk_size=chunk, need_entropy=entropy,
    )  # fmt: skip
    for field in ("sampled_logprobs_N", "support_logprobs_NK", "tail_logprob_N"):
        torch.testing.assert_close(getattr(got, field), getattr(want, field), atol=1e-10, rtol=1e-10)
    if entropy:
        torch.testing.assert_close(got.entropy_N, want.entropy_N)
    else:
        want = HeadStats(want.sampled_logprobs_N, want.support_logprobs_NK, want.tail_logprob_N)
    for a, b in zip(
        torch.autograd.grad(scalar(got), (hidden, weight)),
        torch.autograd.grad(scalar(want), (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize(("k", "pad"), [(0, 0), (1, 0), (4, 2), (11, 3)])
def test_gradcheck(k: int, pad: int) -> None:
    hidden, weight, sampled, support = case(4, k, 11, 2, 3, pad, seed=k)

    def tensors(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        stats = head_stats(h, w, sampled, support, temperature=0.8, vocab_size=11, chunk_size=17, need_entropy=True)
        # At K = V the tail is the clamp's constant on an open set, which finite differences see as flat.
        parts = (stats.sampled_logprobs_N, stats.support_logprobs_NK, stats.tail_logprob_N, stats.entropy_N)
        return tuple(part for part in parts if part is not None and part.numel())

    assert torch.autograd.gradcheck(tensors, (hidden, weight))


def test_gated_out_rows_get_zero_and_do_not_change_the_others() -> None:
    hidden, weight, sampled, support = case(6, 3, 13, 0, 4, 0, seed=3)
    keep = torch.tensor([True, False, True, False, False, True])
    stats = head_stats(hidden, weight, sampled, support)
    grad_h, grad_w = torch.autograd.grad(
        (stats.sampled_logprobs_N + stats.tail_logprob_N)[keep].sum(), (hidden, weight)
    )
    assert (grad_h[~keep] == 0).all()
    kept_h = hidden.detach()[keep].requires_grad_()
    alone = head_stats(kept_h, weight, sampled[keep], support[keep])
    alone_h, alone_w = torch.autograd.grad((alone.sampled_logprobs_N + alone.tail_logprob_N).sum(), (kept_h, weight))
    torch.testing.assert_close(grad_h[keep], alone_h)
    torch.testing.assert_close(grad_w, alone_w)


@pytest.mark.parametrize("rows", [0, 3])
def test_no_gradient_at_all_is_zero_gradient(rows: int) -> None:
    hidden, weight, sampled, support = case(3, 2, 7, 0, 4, 0, seed=1)
    hidden, sampled, support = hidden[:rows], sampled[:rows], support[:rows]
    stats = head_stats(hidden, weight, sampled, support)
    grads = torch.autograd.grad((stats.sampled_logprobs_N * 0.0).sum(), (hidden, weight))
    assert all((grad == 0).all() for grad in grads)


def test_padding_gets_no_gradient_even_when_the_loss_reads_it() -> None:
    hidden, weight, sampled, support = case(2, 3, 9, 0, 4, 2, seed=5)
    stats = head_stats(hidden, weight, sampled, support)
    pad = support < 0
    assert (stats.support_logprobs_NK[pad] == PAD_LOGPROB).all()
    (grad,) = torch.autograd.grad(stats.support_logprobs_NK[pad].sum(), hidden)
    assert (grad == 0).all()


def test_surplus_vocabulary_does_not_exist() -> None:
    hidden, weight, sampled, support = case(4, 3, 9, 5, 4, 0, seed=6)
    small = weight.detach()[:9].requires_grad_()
    want, got = (head_stats(hidden, w, sampled, support, vocab_size=9, need_entropy=True) for w in (small, weight))
    torch.testing.assert_close(scalar(want), scalar(got))
    (grad,) = torch.autograd.grad(scalar(got), weight)
    assert (grad[9:] == 0).all()
    assert (grad[:9] != 0).any()


def test_frozen_weight_or_frozen_body() -> None:
    hidden, weight, sampled, support = case(4, 3, 9, 0, 4, 0, seed=7)
    both = torch.autograd.grad(scalar(head_stats(hidden, weight, sampled, support)), (hidden, weight))
    only_h = torch.autograd.grad(scalar(head_stats(hidden, weight.detach(), sampled, support)), hidden)
    only_w = torch.autograd.grad(scalar(head_stats(hidden.detach(), weight, sampled, support)), weight)
    torch.testing.assert_close(both, (*only_h, *only_w))


def test_tied_embedding() -> None:
    _, weight, sampled, support = case(4, 3, 9, 0, 4, 0, seed=8)
    got, want = (
        torch.autograd.grad(scalar(f(weight[sampled].tanh())), weight)[0]
        for f in (
            lambda h: head_stats(h, weight, sampled, support, need_entropy=True),
            lambda h: plain(h, weight, sampled, support, temperature=1.0, vocab=9),
        )
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_reduced_in_float32(device: str, dtype: torch.dtype) -> None:
    """Against float64 on the same rounded inputs: the log-probs are as exact as float32, not as bfloat16."""
    hidden, weight, sampled, support = case(64, 8, 500, 12, 32, 0, seed=9, spread=0.5)
    low_h, low_w = (t.detach().to(device=device, dtype=dtype).requires_grad_() for t in (hidden, weight))
    exact_h, exact_w = (t.detach().double().cpu().requires_grad_() for t in (low_h, low_w))
    got = head_stats(
        low_h, low_w, sampled.to(device), support.to(device), vocab_size=500, chunk_size=3000, need_entropy=True
    )
    want = plain(exact_h, exact_w, sampled, support, temperature=1.0, vocab=500)
    assert got.sampled_logprobs_N.dtype == got.tail_logprob_N.dtype == torch.float32
    for field in ("sampled_logprobs_N", "support_logprobs_NK", "entropy_N"):
        torch.testing.assert_close(getattr(got, field).cpu().double(), getattr(want, field), atol=2e-5, rtol=1e-5)
    got_grads = torch.autograd.grad(scalar(got), (low_h, low_w))
    want_grads = torch.autograd.grad(scalar(want), (exact_h, exact_w))
    for a, b in zip(got_grads, want_grads, strict=True):
        assert a.dtype == dtype
        step = torch.finfo(dtype).eps
        torch.testing.assert_close(
            a.cpu().double(), b, rtol=4 * step, atol=(1e-5 if dtype is torch.float32 else step) * b.abs().max()
        )


def test_small_tails_survive_float32() -> None:
    """A tail of 1e-5 beside logits of 30: logit - logsumexp would be off by 2e-6, a fifth of it."""
    logits = torch.tensor([[30.0, 28.0, 30.0 - 12.0, 30.0 - 13.0]], dtype=torch.float64)
    exact = logits.log_softmax(-1)
    want = torch.logsumexp(exact[0, 2:], 0)
    stats = head_stats(torch.eye(1), logits.t().float().contiguous(), torch.tensor([0]), torch.tensor([[0, 1]]))
    assert abs(stats.tail_logprob_N.item() - want.item()) < 0.02
    torch.testing.assert_close(stats.sampled_logprobs_N.double(), exact[:, 0], atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, w, s, k: (h, w, s + 100, k), r"sampled ids must lie in \[0, 9\)"),
        (lambda h, w, s, k: (h, w, s, k - 100), r"support ids must lie in \[-1, 9\)"),
        (lambda h, w, s, k: (h, w, s[1:], k), "one row per response token"),
        (lambda h, w, s, k: (h, w, s, k[1:]), "one row per response token"),
        (lambda h, w, s, k: (h[:, 1:], w, s, k), "hidden"),
        (lambda h, w, s, k: (h.float(), w, s, k), "cast one"),
    ],
)
def test_bad_input_says_what_does_not_fit(change, message: str) -> None:
    hidden, weight, sampled, support = case(3, 2, 9, 0, 4, 0, seed=2)
    with pytest.raises(ValueError, match=message):
        head_stats(*change(hidden, weight, sampled, support))
    with pytest.raises(ValueError, match="vocab_size"):
        head_stats(hidden, weight, sampled, support, vocab_size=10)
