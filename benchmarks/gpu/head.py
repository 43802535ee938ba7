"""The head: three products (the floor), plain PyTorch, ours in every mode, Liger's and TRL's where installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import roofline
from benchmarks.gpu.harness import GB, Bench, SkippedCase
from rgopd.trainer.losses.buckets import bucket_logprobs, tail_logprob
from rgopd.trainer.losses.divergences import reverse_kl
from rgopd.trainer.losses.fused import fused_topk_kl
from rgopd.trainer.losses.head import head_stats

K = 50


@dataclass
class Inputs:
    """A micro-batch under the head. `keep_N` is 1 for rows that count."""

    hidden: Tensor
    weight: Tensor
    sampled: Tensor
    support: Tensor
    teacher: Tensor
    teacher_tail: Tensor
    keep: Tensor

    @classmethod
    def make(cls, rows: int, vocab: int, hidden: int, device: torch.device, dropped: float = 0.0) -> Inputs:
        torch.manual_seed(0)
        k = min(K, vocab // 8)
        first = torch.randint(vocab, (rows, 1), device=device)
        support = (first + 7 * torch.arange(k, device=device)) % vocab  # distinct, since 7 k < vocab
        teacher = torch.randn(rows, k, device=device).sub(9.0)
        return cls(
            torch.randn(rows, hidden, device=device).bfloat16().requires_grad_(),
            (torch.randn(vocab, hidden, device=device) * 0.05).bfloat16().requires_grad_(),
            torch.randint(vocab, (rows,), device=device),
            support,
            teacher,
            tail_logprob(teacher),
            (torch.rand(rows, device=device) >= dropped).float(),
        )

    def loss_of(self, student: Tensor, tail: Tensor) -> Tensor:
        buckets = bucket_logprobs(self.teacher, self.teacher_tail, self.support, "tail")
        return (reverse_kl(bucket_logprobs(student, tail, self.support, "tail"), buckets) * self.keep).sum()


def plain(inputs: Inputs) -> Tensor:
    """Full logits; what a trainer without a head of its own writes."""
    logprobs = (inputs.hidden @ inputs.weight.t()).float().log_softmax(-1)
    student = logprobs.gather(1, inputs.support)
    return inputs.loss_of(student, tail_logprob(student)) + 0.0 * logprobs.gather(1, inputs.sampled[:, None]).sum()


def two_passes(inputs: Inputs, kernels: Any = "auto") -> Tensor:
    stats = head_stats(inputs.hidden, inputs.weight, inputs.sampled, inputs.support, kernels=kernels)
    return inputs.loss_of(stats.support_logprobs_NK, stats.tail_logprob_N)


def one_pass(inputs: Inputs, kernels: Any = "auto") -> Tensor:
    named = inputs.sampled, inputs.support, inputs.teacher, inputs.teacher_tail
    return fused_topk_kl(inputs.hidden, inputs.weight, *named, inputs.keep, kernels=kernels).loss


def liger_cross_entropy(inputs: Inputs) -> Tensor:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise SkippedCase("liger-kernel is not installed") from error
    loss: Tensor = LigerFusedLinearCrossEntropyLoss(reduction="sum")(inputs.weight, inputs.hidden, inputs.sampled)
    return loss


def liger_jsd(inputs: Inputs) -> Tensor:
    try:
        from liger_kernel.transformers import LigerFusedLinearJSD
    except ImportError as error:
        raise SkippedCase("liger-kernel is not installed") from error
    teacher = inputs.hidden.detach(), inputs.weight.detach()
    loss: Tensor = LigerFusedLinearJSD(jsd_beta=0.5)(inputs.hidden, inputs.weight, *teacher)
    return loss


def trl_chunked(inputs: Inputs) -> Tensor:
    try:
        from trl.kernels import ChunkedLogProbFunction
    except ImportError as error:
        raise SkippedCase("trl with its chunked kernels is not installed") from error
    chunk = min(32_768, len(inputs.weight))
    found = ChunkedLogProbFunction.apply(inputs.hidden, inputs.weight, None, inputs.sampled, 1.0, chunk, None, 1.0, ())
    total: Tensor = found[0].sum()
    return total


def run(bench: Bench) -> None:
    card = roofline.card_of(torch.cuda.get_device_name() if bench.cuda else "")
    vocab, hidden = (600, 32) if bench.tiny else (151_936, 1536)
    for rows in (64, 128) if bench.tiny else (4096, 8192):
        at = f"T={rows}"
        inputs = Inputs.make(rows, vocab, hidden, bench.device)
        floor = _floor(bench, inputs, at, roofline.head_floor(card, rows, vocab, hidden))
        sizes = card, rows, vocab, hidden
        wanted: dict[str, float] = {}
        ours, naive = roofline.head_ours(*sizes), roofline.head_plain(*sizes)
        measure = _Measure(bench, floor, wanted, at)
        measure("plain eager, full logits", lambda: plain(inputs), inputs, naive, reference="eq4")
        measure("ours, one pass (default on policy)", lambda: one_pass(inputs), inputs, ours, same_as="eq4")
        measure("ours, two passes", lambda: two_passes(inputs), inputs, ours, same_as="eq4")
        measure("ours, one pass, PyTorch's operators", lambda: one_pass(inputs, "torch"), inputs, ours, same_as="eq4")
        gated = Inputs.make(rows, vocab, hidden, bench.device, dropped=0.3)
        share = float(gated.keep.mean())
        part = roofline.head_ours(*sizes, active=share)
        active = f"floor of the {share:.0%} active rows"
        measure("plain eager, 70% active", lambda: plain(gated), gated, naive, reference="gated")
        for name, call in (("one pass", one_pass), ("two passes", two_passes)):
            measure(f"ours, {name}, 70% active", lambda call=call: call(gated), gated, part, same_as="gated",
                    floor=None if floor is None else floor * share, of=active)  # fmt: skip
        del gated
        measure("Liger fused linear cross entropy", lambda: liger_cross_entropy(inputs), inputs, None)
        measure("Liger fused linear JSD", lambda: liger_jsd(inputs), inputs, None)
        measure("TRL chunked log-probs", lambda: trl_chunked(inputs), inputs, None)
        compiled = torch.compile(plain) if bench.cuda else plain  # a C++ compiler is not everywhere
        name = "plain + torch.compile" if bench.cuda else "plain again (torch.compile is for CUDA here)"
        measure(name, lambda compiled=compiled: compiled(inputs), inputs, None, same_as="eq4")


def _floor(bench: Bench, inputs: Inputs, at: str, predicted: float) -> float | None:
    hidden, weight = inputs.hidden.detach(), inputs.weight.detach()

    def products() -> None:
        logits = hidden @ weight.t()
        _ = logits @ weight
        _ = logits.t() @ hidden

    found: float | None = None
    with bench.case(f"floor: three bf16 products, {at}"):
        found = bench.seconds_of(products)
        bench.add(f"floor: three bf16 products, {at}", found * 1e3, "ms", relative="1.00 × floor",
                  predicted=predicted * 1e3)  # fmt: skip
    return found


@dataclass
class _Measure:
    bench: Bench
    floor: float | None
    losses: dict[str, float]
    at: str

    def __call__(
        self,
        name: str,
        call: Callable[[], Tensor],
        inputs: Inputs,
        predicted: float | None,
        *,
        reference: str = "",
        same_as: str = "",
        floor: float | None = None,
        of: str = "floor",
    ) -> None:
        """Forward and backward: seconds, peak beyond the weight's gradient, launches, and the loss where it is known."""
        bench, losses = self.bench, []

        def step() -> None:
            inputs.hidden.grad = inputs.weight.grad = None
            loss = call()
            loss.backward()
            losses.append(loss.detach())

        case = f"{name}, {self.at}"
        with bench.case(case):
            seconds = bench.seconds_of(step)
            value = float(losses[-1])
            if reference:
                self.losses[reference] = value
            wanted = self.losses.get(same_as)
            if wanted is not None and not abs(value - wanted) <= 1e-2 * abs(wanted):
                raise RuntimeError(f"the loss is {value:.5g}, plain PyTorch's {wanted:.5g}")
            inputs.hidden.grad = inputs.weight.grad = None
            peak = bench.peak_gb(step)
            beyond = None if peak is None else peak - inputs.weight.numel() * inputs.weight.element_size() / GB
            launches = sum(count for _, count in bench.profile(step).values())
            base = floor or self.floor
            bench.add(case, seconds * 1e3, "ms", relative=f"{seconds / base:.2f} × {of}" if base else "",
                      predicted=None if predicted is None else predicted * 1e3, memory_gb=beyond,
                      launches=launches)  # fmt: skip
