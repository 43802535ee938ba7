"""lm_head + top-K reverse KL: plain PyTorch against the chunked head, memory and time side by side.

    python benchmarks/trainer/losses/fused_head.py --tokens 1024 --repeats 3

Each variant runs in a process of its own, so that its peak resident set is its own; the variants take turns
(``--repeats`` rounds), so that a noisy machine disturbs them alike; where other work shares the cores, read the CPU
time with ``--threads 1``, which waiting does not lengthen. Extra memory is the peak over what the inputs and
the weight's gradient take, which every variant must hold: the plain implementation's logits, log-softmax and their
gradients against the chunked one's buffers. ``gated`` drops ``--dropped`` of the rollouts, which the plain
implementation multiplies by 0.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

VARIANTS = ("plain", "two_pass", "one_pass")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--chunk", type=int, default=1 << 26, help="logits held at once")
    parser.add_argument("--dropped", type=float, default=0.0, help="share of tokens that the gate drops")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--kernels", choices=["auto", "torch", "triton"], default="auto")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


class PeakResident:
    """Highest resident set within the block, sampled every 2 ms (ru_maxrss would include the setup)."""

    def __enter__(self) -> PeakResident:
        self.peak = self.start = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def run_variant(args: argparse.Namespace) -> dict[str, float]:
    import torch

    sys.path.insert(0, str(Path(__file__).parents[3]))
    from rgopd.trainer.losses.buckets import bucket_logprobs, tail_logprob
    from rgopd.trainer.losses.divergences import reverse_kl
    from rgopd.trainer.losses.fused import fused_topk_kl
    from rgopd.trainer.losses.head import head_stats

    if args.threads:
        torch.set_num_threads(args.threads)
    rng = torch.Generator().manual_seed(0)
    dtype, device = getattr(torch, args.dtype), args.device
    hidden = torch.randn(args.tokens, args.hidden, generator=rng).to(device, dtype).requires_grad_()
    weight = (torch.randn(args.vocab, args.hidden, generator=rng) * 0.05).to(device, dtype).requires_grad_()
    sampled = torch.randint(args.vocab, (args.tokens,), generator=rng).to(device)
    support = torch.stack([torch.randperm(4096, generator=rng)[: args.k] for _ in range(args.tokens)]).to(device)
    teacher = torch.randn(args.tokens, args.k, generator=rng).sub(9.0).to(device)
    teacher_tail = tail_logprob(teacher)
    keep = (torch.arange(args.tokens) >= args.dropped * args.tokens).to(device)
    weight.grad = torch.zeros_like(weight)
    hidden.grad = torch.zeros_like(hidden)

    def loss_of(student: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
        loss = reverse_kl(
            bucket_logprobs(student, tail, support, "tail"), bucket_logprobs(teacher, teacher_tail, support, "tail")
        )
        return torch.where(keep, loss, 0.0).sum()

    def step() -> torch.Tensor:
        if args.variant == "plain":
            logp = (hidden @ weight.t()).float().log_softmax(-1)
            student = logp.gather(1, support)
            _ = logp.gather(1, sampled[:, None])
            loss = loss_of(student, tail_logprob(student))
        elif args.variant == "two_pass":
            stats = head_stats(hidden, weight, sampled, support, chunk_size=args.chunk, kernels=args.kernels)
            loss = loss_of(stats.support_logprobs_NK, stats.tail_logprob_N)
        else:
            loss = fused_topk_kl(
                hidden, weight, sampled, support, teacher, teacher_tail, keep.float(),
                chunk_size=args.chunk, kernels=args.kernels,
            ).loss  # fmt: skip
        loss.backward()
        return loss.detach()

    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    if device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    weight.grad.zero_(), hidden.grad.zero_()  # touches the gradient's pages: every variant holds them
    synchronise()
    with PeakResident() as memory:
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = step()
        synchronise()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    extra = torch.cuda.max_memory_allocated() - base if device == "cuda" else memory.peak - memory.start
    # The gradient that backward makes before it is added to .grad: alike in all variants.
    shared = weight.numel() * weight.element_size()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "extra_mib": extra / 2**20,
        "extra_beyond_gradient_mib": (extra - shared) / 2**20,
        "loss": float(loss),
        "gradient": float(weight.grad.float().norm()),
        "threads": torch.get_num_threads(),
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    args = parse()
    if args.variant:
        print(json.dumps(run_variant(args)))
        return
    variants = args.variants.split(",")
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[variant].append(json.loads(done.stdout))
    print(f"V={args.vocab} H={args.hidden} T={args.tokens} K={args.k} {args.dtype} on {args.device}, "
          f"dropped {args.dropped:.0%}, chunk {args.chunk}, {args.repeats} rounds, "
          f"{runs[variants[0]][0]['threads']} threads")  # fmt: skip
    print("| variant | wall s | min | wall/plain | CPU s | CPU/plain | extra MiB | beyond dW | memory/plain | check |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    base = runs[variants[0]]
    for variant, found in runs.items():
        median = {key: statistics.median(run[key] for run in found) for key in found[0]}
        against = {key: statistics.median(run[key] for run in base) for key in base[0]}
        wall, cpu = (
            statistics.median(a[key] / b[key] for a, b in zip(found, base, strict=True))
            for key in ("seconds", "cpu_seconds")
        )
        print(
            f"| {variant} | {median['seconds']:.2f} | {min(run['seconds'] for run in found):.2f} "
            f"| {wall:.2f} | {median['cpu_seconds']:.2f} | {cpu:.2f} | {median['extra_mib']:.0f} "
            f"| {median['extra_beyond_gradient_mib']:.0f} "
            f"| {median['extra_beyond_gradient_mib'] / against['extra_beyond_gradient_mib']:.3f} "
            f"| {median['loss']:.4f} (|dW| {median['gradient']:.4f}) |"
        )


if __name__ == "__main__":
    main()
