"""What a head's bias, factor and soft-cap cost: forward and backward of the chunked head, side by side in one process.

    OMP_NUM_THREADS=1 python benchmarks/trainer/losses/after_head.py

The variants take turns, so that a noisy machine disturbs them alike; times are CPU seconds, of which the least of all
rounds is told. ``plain`` is the head of Llama and Qwen; ``factor`` (Granite, Cohere) is a temperature and nothing else.
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any

import torch

from rgopd.trainer.losses.head import head_stats

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain again": {},
    "factor": {"temperature": 1 / 0.0625},
    "bias": {"bias": True},
    "soft-cap": {"soft_cap": 30.0},
}


def measured(args: argparse.Namespace) -> dict[str, float]:
    """Least CPU seconds of each variant."""
    rng = torch.Generator().manual_seed(0)
    weight_VD = 0.05 * torch.randn(args.vocab, args.hidden, generator=rng)
    hidden_ND = torch.randn(args.tokens, args.hidden, generator=rng)
    bias_V = torch.randn(args.vocab, generator=rng)
    sampled_N = torch.randint(args.vocab, (args.tokens,), generator=rng)
    support_NK = torch.stack([torch.randperm(args.vocab, generator=rng)[: args.k] for _ in range(args.tokens)])
    least = dict.fromkeys(VARIANTS, float("inf"))
    for _ in range(args.repeats):
        for name, options in VARIANTS.items():
            given = {k: v for k, v in options.items() if k != "bias"}
            given |= {"bias_V": bias_V.requires_grad_()} if options.get("bias") else {}
            hidden, weight = hidden_ND.clone().requires_grad_(), weight_VD.requires_grad_()
            started = time.process_time()
            stats = head_stats(hidden, weight, sampled_N, support_NK, chunk_size=args.chunk, **given)
            (stats.sampled_logprobs_N.sum() + stats.support_logprobs_NK.sum()).backward()
            least[name] = min(least[name], time.process_time() - started)
            weight.grad = bias_V.grad = None
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--chunk", type=int, default=1 << 24)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    least = measured(args)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, [{args.tokens}, {args.hidden}] x {args.vocab}")
    for name, seconds in least.items():
        print(f"{name:12} {seconds:6.2f} s  x {seconds / least['plain']:.2f}")


if __name__ == "__main__":
    main()
