"""The walk by tiles that a GPU takes, on a CPU: against the plain float64 loss, by PyTorch's operators and by Triton's
kernels under their interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.losses import plan as plan_module
from rgopd.trainer.losses.fused import fused_topk_kl
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.losses.plan import BUDGET, plan_tiles, tile_width
from rgopd.trainer.losses.triton_tiles import TritonTiles
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.objectives.step import head_loss
from tests.unit.trainer.losses.test_fused import world
from tests.unit.trainer.losses.test_head import case, plain, scalar

V, H, GIB = 151_936, 1536, 1 << 30


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    k=st.integers(0, 6),
    vocab=st.integers(7, 40),
    surplus=st.integers(0, 3),
    pad=st.integers(0, 2),
    chunk=st.one_of(st.integers(1, 200), st.just(2000)),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
    entropy=st.booleans(),
    drop=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_values_and_gradients(rows, k, vocab, surplus, pad, chunk, temperature, entropy, drop, seed) -> None:
    """With the logits kept (a chunk of 2,000) and made again (a smaller one); with all rows, and with some, active."""
    if k == 0:
        pad = 0
    hidden, weight, sampled, support = case(rows, k, vocab, surplus, 5, pad, seed)
    if k and seed % 2:
        sampled[0] = support[0].max().clamp(min=0)  # sampled and in the support
    want = plain(hidden, weight, sampled, support, temperature=temperature, vocab=vocab) if k else None
    options = {"temperature": temperature, "vocab_size": vocab, "chunk_size": chunk, "need_entropy": entropy}
    got = head_stats(hidden, weight, sampled, support, walk="tiles", **options)
    rest = head_stats(hidden, weight, sampled, support, walk="rows", **options)
    for field in ("sampled_logprobs_N", "support_logprobs_NK", "tail_logprob_N", *(["entropy_N"] if entropy else [])):
        for other in [rest] + ([want] if want else []):
            torch.testing.assert_close(getattr(got, field), getattr(other, field), atol=1e-9, rtol=1e-9)
    keep = torch.arange(rows) % 2 == 0 if drop else torch.ones(rows, dtype=torch.bool)
    found = [torch.autograd.grad(scalar(stats.take(keep)), (hidden, weight)) for stats in (got, rest)]
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("chunk", [17, 5000])
def test_gradcheck(chunk: int) -> None:
    hidden, weight, sampled, support = case(4, 4, 11, 2, 3, 2, seed=4)

    def tensors(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        stats = head_stats(
            h, w, sampled, support, temperature=0.8, vocab_size=11, chunk_size=chunk, need_entropy=True, walk="tiles"
        )
        assert stats.entropy_N is not None
        return stats.sampled_logprobs_N, stats.support_logprobs_NK, stats.tail_logprob_N, stats.entropy_N

    assert torch.autograd.gradcheck(tensors, (hidden, weight), nondet_tol=1e-12)  # kept, then made again


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    chunk=st.integers(1, 300),
    temperature=st.sampled_from([1.0, 0.6]),
    name=st.sampled_from(["reverse_kl", "forward_kl", "jsd", "sdpo"]),
    gate=st.sampled_from([gate_preset("paper"), gate_preset("released"), gate_preset("off")]),
    drift=st.sampled_from([0.0, 0.5]),
    single=st.booleans(),
)
def test_one_pass_and_two_equal_the_rows(seed, chunk, temperature, name, gate, drift, single) -> None:
    hidden, weight, batch = world(seed)
    noise = torch.randn(len(batch.rollout_N), generator=torch.Generator().manual_seed(seed)).double()
    batch = replace(batch, behaviour_logprobs_N=batch.behaviour_logprobs_N + drift * noise)
    options = {"temperature": temperature, "chunk_size": chunk, "single_pass": single}
    tiles, rows = (
        head_loss(hidden, weight, batch, get_objective(name), gate, walk=walk, **options) for walk in ("tiles", "rows")
    )
    assert tiles.decision.keep_N.tolist() == rows.decision.keep_N.tolist()
    torch.testing.assert_close(tiles.sums.loss, rows.sums.loss)
    torch.testing.assert_close(tiles.metrics[name], rows.metrics[name])
    torch.testing.assert_close(tiles.stats.tail_logprob_N, rows.stats.tail_logprob_N)
    found = [torch.autograd.grad(3 * one.sums.loss, (hidden, weight)) for one in (tiles, rows)]
    torch.testing.assert_close(*found)


def loss_and_gradients(
    dtype: torch.dtype, *, walk: str, kernels: str, **options: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, and gradients of hidden states, weight and bias, of a capped head with a bias and a gate."""
    rng = torch.Generator().manual_seed(7)
    hidden, weight, sampled, support = case(9, 5, 300, 4, 16, 1, seed=3)
    hidden, weight = (x.detach().bfloat16().to(dtype).requires_grad_() for x in (hidden, weight))
    bias = torch.randn(304, generator=rng).bfloat16().to(dtype).requires_grad_()
    sampled[0] = support[0].max()
    teacher = torch.randn(support.shape, generator=rng).double().sub(6.0)
    keep = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 0]).double()
    out = fused_topk_kl(
        hidden, weight, sampled, support, teacher, torch.full((9,), -0.1), keep,
        vocab_size=300, temperature=0.8, bias_V=bias, kernels=kernels, walk=walk, **options,
    )  # fmt: skip
    (out.loss * 0.5).backward()
    return out.loss.detach().double(), hidden.grad.double(), weight.grad.double(), bias.grad.double()


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 5e-5), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("soft_cap", [0.0, 12.0])
@pytest.mark.parametrize("chunk", [700, 1 << 20])
def test_against_float64(kernels: str, dtype: torch.dtype, limit: float, soft_cap: float, chunk: int) -> None:
    """Chunks of two rows and tiles of 512 ids with blocks of that size, and everything at once. In bfloat16 the inputs
    are the same numbers, and the limit is what rounding the logits' gradient and the sums costs."""
    want = loss_and_gradients(torch.float64, walk="rows", kernels="torch", soft_cap=soft_cap)
    got = loss_and_gradients(dtype, walk="tiles", kernels=kernels, soft_cap=soft_cap, chunk_size=chunk)
    assert abs(got[0] - want[0]) < 2e-5 * abs(want[0])
    for ours, theirs in zip(got[1:], want[1:], strict=True):
        assert (ours - theirs).norm() < limit * theirs.norm()


@pytest.mark.parametrize("walk", ["rows", "tiles"])
def test_kept_logits_are_as_good_as_float32_ones_where_logits_are_large(walk: str) -> None:
    """Logits of around 60 rounded to bfloat16 would be off by 0.1, and their probabilities by a tenth; kept relative
    to their block's largest they cost the gradient no more than its own rounding."""
    found = []
    for dtype, how in ((torch.float64, "rows"), (torch.bfloat16, walk)):
        hidden, weight, sampled, support = case(9, 5, 300, 4, 16, 1, seed=3)
        hidden, weight = ((x.detach() * 2).bfloat16().to(dtype).requires_grad_() for x in (hidden, weight))
        stats = head_stats(hidden, weight, sampled, support, walk=how)
        stats.sampled_logprobs_N.double().sum().backward()
        found.append([hidden.grad.double(), weight.grad.double()])
    for want, got in zip(*found, strict=True):
        assert (got - want).norm() < 4e-3 * want.norm()


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("active", [9, 5])
def test_kept_for_backward_by_either_kernels(kernels: str, entropy: bool, active: int) -> None:
    """Several blocks a row, gathered rows, an entropy in the loss: Triton's under the interpreter."""
    found: list[tuple[HeadStats, list[Tensor]]] = []
    for name, walk in (("torch", "rows"), (kernels, "tiles")):
        hidden, weight, sampled, support = case(9, 4, 2500, 6, 8, 1, seed=1)
        sampled[1] = support[1].max()
        hidden, weight = (x.detach().float().requires_grad_() for x in (hidden, weight))
        stats = head_stats(
            hidden, weight, sampled, support,
            vocab_size=2500, temperature=0.7, need_entropy=entropy, kernels=name, walk=walk, chunk_size=1 << 17,
        )  # fmt: skip
        scalar(stats.take(torch.arange(active))).backward()
        found.append((stats, [hidden.grad, weight.grad]))
    for field in ["sampled_logprobs_N", "support_logprobs_NK", *(["entropy_N"] if entropy else [])]:
        torch.testing.assert_close(getattr(found[1][0], field), getattr(found[0][0], field), atol=3e-6, rtol=3e-6)
    torch.testing.assert_close(found[1][1], found[0][1], atol=2e-5, rtol=2e-4)


def test_frozen_weights_and_no_gradients_at_all() -> None:
    hidden, weight, sampled, support = case(5, 3, 20, 0, 4, 0, seed=2)
    both = torch.autograd.grad(scalar(head_stats(hidden, weight, sampled, support, walk="tiles")), (hidden, weight))
    only = head_stats(hidden, weight.detach(), sampled, support, walk="tiles")
    torch.testing.assert_close(torch.autograd.grad(scalar(only), hidden)[0], both[0])
    none = torch.autograd.grad(
        (head_stats(hidden, weight, sampled, support, walk="tiles").sampled_logprobs_N * 0).sum(), (hidden, weight)
    )
    assert all((grad == 0).all() for grad in none)
    with torch.no_grad():
        assert not head_stats(hidden, weight, sampled, support, walk="tiles").sampled_logprobs_N.requires_grad


@pytest.mark.parametrize("single", [False, True])
def test_no_rows_and_no_kept_rows(single: bool) -> None:
    hidden, weight, batch = world(5)
    agreed = replace(batch, advantage_R=torch.zeros_like(batch.advantage_R))
    options = {"single_pass": single, "walk": "tiles"}
    got = head_loss(hidden, weight, agreed, get_objective("rg_opd"), gate_preset("released"), **options)
    grads = torch.autograd.grad(got.sums.loss, (hidden, weight))
    assert all((grad == 0).all() for grad in grads)
    empty = batch.take(torch.arange(0))
    got = head_loss(hidden[:0], weight, empty, get_objective("rg_opd"), gate_preset("off"), **options)
    assert (torch.autograd.grad(got.sums.loss, weight)[0] == 0).all()


class Counts(TorchDispatchMode):
    """Products with the head's weight, and elements that copies and conversions write."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.copied = 0
        self.in_kernel = False

    def without(self, method: Any) -> Any:
        """What the interpreter moves about within a kernel is no copy of ours."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.in_kernel = True
            try:
                return method(*args, **kwargs)
            finally:
                self.in_kernel = False

        return call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            self.products += 1
        if not self.in_kernel and name in ("copy_", "_to_copy", "clone", "contiguous"):
            self.copied += out.numel()
        return out


def test_three_products_a_chunk_and_no_copy_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the profiler would show: by the numbers of operators, which do not depend on the device."""
    rows, vocab = 64, 2048
    hidden, weight, sampled, support = case(rows, 8, vocab, 0, 16, 0, seed=9)
    hidden, weight = (x.detach().float().requires_grad_() for x in (hidden, weight))
    teacher = torch.full(support.shape, -5.0)
    plan = plan_tiles(rows, vocab, 16, 4)
    counts = Counts()
    for kernel in ("absorb_", "spend_", "scale_"):
        monkeypatch.setattr(TritonTiles, kernel, counts.without(getattr(TritonTiles, kernel)))
    with counts:
        fused_topk_kl(
            hidden, weight, sampled, support, teacher, torch.full((rows,), -0.1), torch.ones(rows),
            walk="tiles", kernels="triton",
        ).loss.backward()  # fmt: skip
    tiles = -(-vocab // plan.width)
    assert counts.products == tiles + 2  # the logits tile by tile; dX and dW at once
    assert counts.copied < rows * vocab / 10


def test_the_weights_gradient_of_many_chunks_is_summed_in_float32() -> None:
    """16-bit sums of up to four products; beyond that float32: 40 chunks of one row lose nothing."""
    found = []
    for dtype, chunk in ((torch.float64, None), (torch.bfloat16, 64)):
        rng = torch.Generator().manual_seed(0)
        hidden, weight = (torch.randn(n, 8, generator=rng).bfloat16().to(dtype).requires_grad_() for n in (40, 64))
        sampled, support = torch.arange(40) % 64, torch.arange(40)[:, None] % 64
        out = fused_topk_kl(
            hidden, weight, sampled, support, torch.full((40, 1), -1.0), torch.full((40,), -0.5), torch.ones(40),
            walk="tiles", chunk_size=chunk,
        )  # fmt: skip
        out.loss.backward()
        found.append(weight.grad.double())
    assert plan_tiles(40, 64, 8, 2, chunk_size=64).wide_sum
    assert (found[0] - found[1]).norm() < 6e-3 * found[0].norm()


@pytest.mark.parametrize("rows", [1, 100, 441, 2867, 4096, 4097, 5734, 8192, 12_000, 16_384, 40_000, 131_072])
def test_what_a_gpu_will_hold(rows: int) -> None:
    """Kept logits, a tile, the weight's float32 sum and the hidden states' gradient: at most 1.5 GiB beyond dW."""
    plan = plan_tiles(rows, V, H, 2)
    kept, tile = plan.rows * V * 2, plan.rows * plan.width * 4
    wide = (4 - 2) * V * H if plan.wide_sum else 0
    held = kept + tile + wide + 2 * plan.rows * H * 2
    assert held + (V * H * 2 if plan.wide_sum else 0) <= 1.5 * GIB
    assert plan.width % plan.block == 0
    assert plan.width % 128 == 0
    assert plan.block <= plan_module.BLOCK
    assert tile <= plan_module.TILE * 4
    chunks = plan.chunks(rows)
    assert sum(c.stop - c.start for c in chunks) == rows
    assert len(chunks) <= plan_module.NARROW_SUMS or plan.wide_sum


def test_plans_of_the_sizes_that_are_measured() -> None:
    assert plan_tiles(4096, V, H, 2).rows == 4096
    eight = plan_tiles(8192, V, H, 2)
    assert (eight.rows, eight.width, eight.wide_sum) == (4096, 2048, False)
    assert plan_tiles(4097, V, H, 2).rows == 2176  # two of one size, not 4,096 and 1
    assert plan_tiles(65_536, V, H, 2).wide_sum
    assert not plan_tiles(65_536, V, H, 4).wide_sum  # float32 sums are float32 anyway
    assert BUDGET < 1.5 * GIB


@pytest.mark.parametrize(("rows", "width"), [(441, 151_936), (2867, 23_296), (4096, 16_384), (70_000_000, 1)])
def test_widths_are_multiples_of_128(rows: int, width: int) -> None:
    assert tile_width(rows, V, 1 << 26) == width
