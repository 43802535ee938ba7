"""The products of 16-bit matrices into float32 ones, which a GPU has and a CPU gets here: the same operators of
PyTorch, with a kernel for the CPU, so that the code that asks for them runs as it will there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rgopd.trainer.losses.products import add_product, has_wide_products, matmul_grad, project
from tests.unit.trainer.losses.test_kept import Counts, loss_and_gradients

CPU = torch.device("cpu")


@pytest.fixture
def wide_products() -> Iterator[None]:
    """`aten::mm.dtype_out` and `aten::addmm.dtype_out` on the CPU."""

    def mm(left: Tensor, right: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
        assert left.dtype == right.dtype
        return out.copy_(left.to(out_dtype) @ right.to(out_dtype))

    def addmm(
        add: Tensor, left: Tensor, right: Tensor, out_dtype: torch.dtype, *, beta=1, alpha=1, out: Tensor
    ) -> Tensor:
        return out.copy_(beta * add + alpha * (left.to(out_dtype) @ right.to(out_dtype)))

    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("mm.dtype_out", mm)
    library.impl("addmm.dtype_out", addmm)
    has_wide_products.cache_clear()
    yield
    library._destroy()
    has_wide_products.cache_clear()


def test_it_is_asked_by_doing_it() -> None:
    assert not has_wide_products(CPU, torch.bfloat16)
    assert not has_wide_products(CPU, torch.float32)


@pytest.mark.usefixtures("wide_products")
def test_found_where_it_is() -> None:
    assert has_wide_products(CPU, torch.bfloat16)


def matrices(*shapes: tuple[int, int], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]


def check_sums(limit: float) -> None:
    left, right = matrices((6, 40), (40, 5))
    want = left.double() @ right.double()
    for accumulate in (False, True):
        into = torch.ones(6, 5)
        add_product(into, left, right, accumulate=accumulate)
        assert (into.double() - want - float(accumulate)).abs().max() < limit


def test_sums_without_it() -> None:
    check_sums(0.1)  # each product is rounded to bfloat16 once


@pytest.mark.usefixtures("wide_products")
def test_sums_with_it() -> None:
    check_sums(1e-4)


@pytest.mark.usefixtures("wide_products")
def test_no_slices_no_copies_and_no_sums_out_of_place() -> None:
    hidden, weight = matrices((64, 8), (20_000, 8))
    logits = torch.empty(64, 20_000)
    assert has_wide_products(CPU, torch.bfloat16)  # asked before they are counted
    with Counts() as counts:
        project(hidden, weight, 1.0, out=logits)
    assert (counts.products, counts.copied) == (1, 0)
    grad_hidden, grad_weight = torch.zeros(64, 8), torch.zeros(20_000, 8)
    narrow = logits.bfloat16()
    with Counts() as counts:
        for accumulate in (False, True):
            matmul_grad(narrow, hidden, weight, grad_hidden, grad_weight, accumulate=accumulate)
    assert (counts.products, counts.copied) == (4, 0)
    want = (narrow.double() @ weight.double(), narrow.double().t() @ hidden.double())
    torch.testing.assert_close(grad_hidden.double(), 2 * want[0], rtol=1e-4, atol=0.05)
    torch.testing.assert_close(grad_weight.double(), 2 * want[1], rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("wide_products")
@pytest.mark.parametrize("walk", ["rows", "tiles"])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("chunk", [700, 1 << 20])
def test_the_loss_as_a_gpu_computes_it(walk: str, kernels: str, chunk: int) -> None:
    want = loss_and_gradients(torch.float64, walk="rows", kernels="torch")
    got = loss_and_gradients(torch.bfloat16, walk=walk, kernels=kernels, chunk_size=chunk)
    assert abs(got[0] - want[0]) < 2e-5 * abs(want[0])
    for ours, theirs in zip(got[1:], want[1:], strict=True):
        assert (ours - theirs).norm() < 6e-3 * theirs.norm()
