"""One call of a variable-length kernel for a packed row. That of `torch.nn.attention.varlen` exists on a GPU only; its
two operators get a kernel for the CPU here, so that torch's own function, its autograd and ours run as they will there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rgopd.trainer.batch import varlen
from rgopd.trainer.batch.packing import RowMask
from rgopd.trainer.batch.varlen import Kernel, disagreement, kernel_for
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.student.model import Student
from tests.families.build import save_tiny
from tests.unit.trainer.batch.test_packing import batch, hidden_states
from tests.unit.trainer.lone import lone_rank, step
from tests.unit.trainer.run.test_train_step import worst

CPU = torch.device("cpu")
CALLS: list[tuple[Any, ...]] = []


def attend(
    q: Tensor, k: Tensor, v: Tensor, cumulative: Tensor, scale: float, window: int, grad: Tensor | None = None
) -> list[Tensor]:
    """The output, or by hand the gradients of the three: autograd is above the operators that this is the kernel of."""
    parts, group, ends = [], q.shape[1] // k.shape[1], cumulative.tolist()
    for start, stop in zip(ends[:-1], ends[1:], strict=True):
        one, two, three = (x[start:stop].double() for x in (q, *(x.repeat_interleave(group, 1) for x in (k, v))))
        back = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        scores = torch.einsum("qhd,khd->hqk", one, two) * scale
        weight = scores.masked_fill((back < 0) | ((back > window) & (window >= 0)), -torch.inf).softmax(-1)
        if grad is None:
            parts.append([torch.einsum("hqk,khd->qhd", weight, three)])
            continue
        out = grad[start:stop].double()
        of_weight = torch.einsum("qhd,khd->hqk", out, three)
        of_scores = weight * (of_weight - (of_weight * weight).sum(-1, keepdim=True)) * scale
        wide = torch.einsum("hqk,qhd->khd", of_scores, one), torch.einsum("hqk,qhd->khd", weight, out)
        shared = (x.unflatten(1, (-1, group)).sum(2) for x in wide)
        parts.append([torch.einsum("hqk,khd->qhd", of_scores, two), *shared])
    return [torch.cat(column).to(q.dtype) for column in zip(*parts, strict=True)]


def forward(
    q, k, v, cum_q, cum_k, max_q, max_k, dropout, is_causal, return_debug_mask, *, scale=None,
    window_size_left=None, window_size_right=None, **rest,
):  # fmt: skip
    assert (dropout, window_size_right, is_causal) == (0.0, 0, window_size_left == -1)
    assert cum_q.dtype == torch.int32
    assert max_q == max_k == int(cum_q.diff().max())
    CALLS.append((q.shape, window_size_left))
    (out,) = attend(q, k, v, cum_q, scale, window_size_left)
    return out, q.new_zeros(q.shape[1], len(q)), q.new_zeros(2), q.new_zeros(1), q.new_zeros(1)


def backward(
    grad, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, dropout, is_causal, rng, unused, *, scale=None,
    window_size_left=None, window_size_right=None,
):  # fmt: skip
    return tuple(attend(q, k, v, cum_q, scale, window_size_left, grad))


@pytest.fixture(scope="module", autouse=True)
def _operators() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("_flash_attention_forward", forward)
    library.impl("_flash_attention_backward", backward)
    patch = pytest.MonkeyPatch()
    patch.setattr(varlen, "_NARROW", (torch.float32, torch.bfloat16))  # to see differences below a 16-bit rounding
    varlen._trusted.cache_clear()
    yield
    patch.undo()
    varlen._trusted.cache_clear()
    library._destroy()


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Packed rows as a CPU computes them."""
    monkeypatch.setattr("rgopd.trainer.batch.packing.kernel_for", lambda _: None)
    return monkeypatch


def test_it_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    kernel = kernel_for(torch.zeros(1, 4, 3, 32))
    assert kernel is not None
    assert kernel.name == "torch"
    assert disagreement(kernel, CPU, torch.float32) < 1e-5
    assert kernel_for(torch.zeros(1, 4, 3, 12)) is None  # no head size that it takes
    assert kernel_for(torch.zeros(1, 4, 3, 32, dtype=torch.float64)) is None

    def blind(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        return kernel.run(q, k, v, torch.tensor([0, len(q)], dtype=torch.int32), len(q), *rest[2:])

    monkeypatch.setattr(varlen, "_torch_varlen", lambda: Kernel("one that sees across", blind, False, True))
    varlen._trusted.cache_clear()
    assert kernel_for(torch.zeros(1, 4, 3, 32)) is None
    assert "differs by" in caplog.text
    varlen._trusted.cache_clear()


@pytest.mark.parametrize("lacks", [{"scale", "window_size", "enable_gqa"}, {"enable_gqa"}])
def test_earlier_versions_of_torchs_function(lacks: set[str]) -> None:
    """2.10 had `is_causal` and neither scale nor windows nor shared key heads."""
    from torch.nn.attention.varlen import varlen_attn

    def earlier(q, k, v, cum_q, cum_k, max_q, max_k, is_causal=False, **rest):
        assert not lacks & set(rest)
        assert k.shape[1] == q.shape[1]
        rest.setdefault("window_size", (-1, 0 if is_causal else -1))
        rest.setdefault("scale", q.shape[-1] ** -0.5)
        return varlen_attn(q, k, v, cum_q, cum_k, max_q, max_k, **rest)

    known = frozenset({"scale", "window_size", "enable_gqa", "is_causal"} - lacks)
    kernel = Kernel("earlier", varlen.partial(varlen._run_torch, earlier, known), False, "window_size" in known)
    assert disagreement(kernel, CPU, torch.float32) < 1e-5


FAMILIES = {
    "shared key heads": ("qwen2", {}),
    "a window in every layer": ("mistral", {"sliding_window": 5}),
    "windows in one of two layers": ("gemma3_text", {}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_and_gradients_are_those_of_groups(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, changes = FAMILIES[name]
    folder = str(save_tiny(tmp_path, family, head_dim=8, **changes))
    micro, found = batch(9, packing=True), []
    assert kernel_for(torch.zeros(1, 1, 1, 8)) is not None  # tried before its calls are counted
    for patched in (False, True):
        if patched:
            monkeypatch.setattr("rgopd.trainer.batch.packing.kernel_for", lambda _: None)
        student = Student.load(folder, packing=True)
        assert student.packing
        CALLS.clear()
        hidden_ND = hidden_states(student, micro)
        (hidden_ND * torch.randn(hidden_ND.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        assert bool(CALLS) != patched
        assert patched or len(CALLS) == student.hf.config.num_hidden_layers  # one call a layer
        found.append([hidden_ND, *(p.grad for p in student.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() < 1e-5 * want.norm()


def test_capped_scores_take_a_kernel_that_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn's does, torch's does not: the model's own function then works group by group."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    folder = str(save_tiny(tmp_path, "gemma2", attn_logit_softcapping=5.0, head_dim=8, **kinds))
    micro, asked = batch(5, packing=True), []

    def capped(q: Tensor, k: Tensor, v: Tensor, cum: Tensor, longest: int, scale: float, window: int, cap: float):
        asked.append((window, cap))
        return q * 0.0

    with torch.no_grad():
        student = Student.load(folder, packing=True)
        CALLS.clear()
        hidden_states(student, micro)
        assert not CALLS
        kernel = Kernel("caps", capped, caps=True, windows=True)
        monkeypatch.setattr("rgopd.trainer.batch.packing.kernel_for", lambda _: kernel)
        hidden_states(student, micro)
    assert asked == [(student.hf.config.sliding_window, 5.0), (0, 5.0)]


@pytest.mark.parametrize(
    ("seen", "window"),
    [
        (lambda b, h, q, k: k <= q, 0),
        (lambda b, h, q, k: (k <= q) & (k > q - 4), 4),
        (lambda b, h, q, k: (k <= q) & (k > q - 1), 1),
        (lambda b, h, q, k: (k <= q) & (k // 4 == q // 4), None),  # chunks
        (lambda b, h, q, k: (k <= q) & ((k > q - 3) | (k % 8 == 0)), None),  # sinks
    ],
)
def test_what_kind_of_window_a_mask_is(seen: Any, window: int | None) -> None:
    row = batch(7, packing=True).packed
    assert row is not None
    assert len(row.longest_T) == max(row.lengths) > 5
    assert RowMask(seen).window(row) == window


class Indexed(TorchDispatchMode):
    """Elements gathered and put back by index, and operators in all."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_no_gathering_by_index_in_attention(student_folder: Path, grouped: pytest.MonkeyPatch) -> None:
    micro, found = batch(13, packing=True), []
    for undo in (False, True):
        if undo:
            grouped.undo()
        student = Student.load(str(student_folder), packing=True)
        hidden_states(student, micro)
        with Indexed() as mode:
            hidden_states(student, micro).sum().backward()
        found.append(mode.calls)
    groups, one = found
    layers = student.hf.config.num_hidden_layers
    assert groups["index"] > layers * 10
    assert one["index"] <= 2  # the response rows
    assert one.get("index_put", 0) + one.get("index_put_", 0) <= 1
    assert sum(one.values()) < 0.7 * sum(groups.values())


def test_a_step_is_the_step_of_groups(student_folder: Path, tmp_path: Path, grouped: pytest.MonkeyPatch) -> None:
    with lone_rank(tmp_path):
        want = step(student_folder, rollouts=13, gate=GateConfig(), gradient_checkpointing=True)[:2]
        grouped.undo()
        got = step(student_folder, rollouts=13, gate=GateConfig(), gradient_checkpointing=True)[:2]
    assert worst(want[0], got[0]) < 1e-5
    assert got[1]["loss"] == pytest.approx(want[1]["loss"], rel=1e-5)


def test_the_trial_is_not_part_of_a_checkpointed_forward() -> None:
    varlen._trusted.cache_clear()

    def layer(x: Tensor) -> Tensor:
        kernel = kernel_for(x)  # tried in the forward, known when it is made again
        assert kernel is not None
        return (x * x).sum()

    x = torch.ones(1, 4, 3, 32, requires_grad=True)
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).backward()
    assert x.grad is not None
