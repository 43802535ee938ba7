"""The head: three products (the floor), plain PyTorch, ours in every mode, Liger's and TRL's where installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import roofline
from benchmarks.gpu.harness import GB, Bench, SkippedCase
from rgopd.trainer.losses.buckets import bucket_logprobs, tail_logprob
from rgopd.trainer.losses.choice import choose
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


def liger(name: str, inputs: Inputs) -> Any:
    """One of its losses."""
    if not inputs.hidden.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise SkippedCase("Liger's kernels need a GPU, or TRITON_INTERPRET=1")
    try:
        return getattr(import_module("liger_kernel.transformers"), name)
    except ImportError as error:
        raise SkippedCase("liger-kernel is not installed") from error


def liger_cross_entropy(inputs: Inputs) -> Tensor:
    cross_entropy = liger("LigerFusedLinearCrossEntropyLoss", inputs)(reduction="sum")
    loss: Tensor = cross_entropy(inputs.weight, inputs.hidden, inputs.sampled)
    return loss


def liger_jsd(inputs: Inputs) -> Tensor:
    teacher = inputs.hidden.detach(), inputs.weight.detach()
    jsd = liger("LigerFusedLinearJSD", inputs)(jsd_beta=0.5)
    loss: Tensor = jsd(inputs.hidden, inputs.weight, *teacher, inputs.sampled)
    return loss


def trl_chunked(inputs: Inputs) -> Tensor:
    try:
        from trl.kernels import ChunkedLogProbFunction

        import_module("trl.trainer.utils")  # its backward does, and wants pandas and more
    except ImportError as error:
        raise SkippedCase(f"trl with its chunked kernels and what they import is not installed: {error}") from error
    chunk = min(32_768, len(inputs.weight))
    found = ChunkedLogProbFunction.apply(inputs.hidden, inputs.weight, None, inputs.sampled, 1.0, chunk, None, 1.0, ())
    total: Tensor = found[0].sum()
    return total


def run(bench: Bench) -> None:
    vocab, hidden = (600, 32) if bench.tiny else (151_936, 1536)
    for rows in (64, 128) if bench.tiny else (4096, 8192):
        _at(bench, rows, vocab, hidden)


def _at(bench: Bench, rows: int, vocab: int, hidden: int) -> None:
    card = roofline.card_of(torch.cuda.get_device_name() if bench.cuda else "")
    sizes = card, rows, vocab, hidden
    at = f"T={rows}"
    inputs = Inputs.make(rows, vocab, hidden, bench.device)
    floor = _floor(bench, inputs, at, roofline.head_floor(*sizes))
    ours, naive = roofline.head_ours(*sizes), roofline.head_plain(*sizes)
    measure = _Measure(bench, floor, {}, at)
    measure("plain eager, full logits", plain, inputs, naive, reference="all")
    measure("ours, one pass (default on policy)", one_pass, inputs, ours, same_as="all")
    measure("ours, two passes", two_passes, inputs, ours, same_as="all")
    measure("ours, one pass, PyTorch's operators", partial(one_pass, kernels="torch"), inputs, ours, same_as="all")
    gated = Inputs.make(rows, vocab, hidden, bench.device, dropped=0.3)
    share = float(gated.keep.mean())
    part = roofline.head_ours(*sizes, active=share)
    measure("plain eager, 70% active", plain, gated, naive, reference="gated")
    measure.floor, measure.of = None if floor is None else floor * share, f"floor of the {share:.0%} active rows"
    measure("ours, one pass, 70% active", one_pass, gated, part, same_as="gated")
    measure("ours, two passes, 70% active", two_passes, gated, part, same_as="gated")
    measure.floor, measure.of = floor, "floor"
    measure("Liger fused linear cross entropy", liger_cross_entropy, inputs, None)
    measure("Liger fused linear JSD", liger_jsd, inputs, None)
    measure("TRL chunked log-probs", trl_chunked, inputs, None)
    # Last, for what it takes to compile; and on CUDA alone, since a C++ compiler is not everywhere.
    compiled = torch.compile(plain) if bench.cuda else plain
    name = "plain + torch.compile" if bench.cuda else "plain again (compiled on CUDA)"
    measure(name, compiled, inputs, None, same_as="all")


def _floor(bench: Bench, inputs: Inputs, at: str, predicted: float) -> float | None:
    """Seconds; None where not even that could be measured."""
    hidden, weight = inputs.hidden.detach(), inputs.weight.detach()
    name = f"floor: three bf16 products, {at}"
    found: list[float] = []

    def products() -> None:
        logits = hidden @ weight.t()
        _ = logits @ weight
        _ = logits.t() @ hidden

    def measure() -> None:
        found.append(bench.seconds_of(products))
        passes = f"ours passes over the logits by {choose('auto', hidden).name}"
        bench.add(name, found[0] * 1e3, "ms", relative="1.00 × floor", predicted=predicted * 1e3, note=passes)

    bench.case(name, measure, always=True)
    return found[0] if found else None


@dataclass
class _Measure:
    bench: Bench
    floor: float | None
    losses: dict[str, float]
    at: str
    of: str = "floor"

    def __call__(
        self,
        name: str,
        call: Callable[[Inputs], Tensor],
        inputs: Inputs,
        predicted: float | None,
        *,
        reference: str = "",
        same_as: str = "",
    ) -> None:
        """Forward and backward: seconds, peak beyond the weight's gradient, launches; the loss must be plain's."""
        bench = self.bench
        losses: list[Tensor] = []

        def step() -> None:
            inputs.hidden.grad = inputs.weight.grad = None
            loss = call(inputs)
            loss.backward()
            losses.append(loss.detach())

        case = f"{name}, {self.at}"

        def measure() -> None:
            seconds = bench.seconds_of(step)
            self._compare(float(losses[-1]), reference, same_as)
            inputs.hidden.grad = inputs.weight.grad = None
            peak = bench.peak_gb(step)
            gradient = inputs.weight.numel() * inputs.weight.element_size() / GB
            bench.add(
                case,
                seconds * 1e3,
                "ms",
                relative=f"{seconds / self.floor:.2f} × {self.of}" if self.floor else "",
                predicted=None if predicted is None else predicted * 1e3,
                memory_gb=None if peak is None else peak - gradient,
                launches=sum(count for _, count in bench.profile(step).values()),
            )

        bench.case(case, measure)

    def _compare(self, value: float, reference: str, same_as: str) -> None:
        if reference:
            self.losses[reference] = value
        wanted = self.losses.get(same_as)
        if wanted is not None and not abs(value - wanted) <= 1e-2 * abs(wanted):
            raise RuntimeError(f"the loss is {value:.5g}, plain PyTorch's {wanted:.5g}")
