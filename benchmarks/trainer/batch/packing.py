"""Packed rows against padded batches, side by side: seconds of forward and backward of a step, and padding.

    python -m benchmarks.trainer.batch.packing            # the demo's student on its own rollout lengths
    python -m benchmarks.trainer.batch.packing --wide     # a 30M-parameter Qwen2 on responses of 32 to 1,024 tokens

Both cut the same rollouts by the same token budget with the trainer's own planner, and alternate within one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import torch
import torch.distributed as dist
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.trainer.batch.micro_batch import MicroBatch, Part, assemble
from rgopd.trainer.batch.packing import enable_packing
from rgopd.trainer.batch.plan import RolloutPlan, cut_micro_batches
from rgopd.trainer.demo.simulate import CHECKPOINTS
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.model import CPU, Student

K = 16


def wide_student() -> Student:
    """Random weights: only time matters."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, use_sliding_window=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    enable_packing(model, CPU)
    return Student(model.train())


def make_parts(lengths: list[tuple[int, int]], vocab: int) -> list[Part]:
    """Made-up ids and log-probs of given prompt and response lengths."""
    rng = np.random.default_rng(0)
    parts = []
    for prompt, response in lengths:
        flat = np.full((response, K), -np.log(2 * K), dtype=np.float32)
        support = np.tile(np.arange(K, dtype=np.int32), (response, 1))
        sampled = np.full(response, -2.0, dtype=np.float32)
        ids = rng.integers(4, vocab, prompt + response).astype(np.int32)
        tail = np.full(response, -np.log(2), dtype=np.float32)
        parts.append(Part(ids[:prompt], ids[prompt:], sampled, support, sampled, flat, tail))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    if args.wide:
        student, count, budget = wide_student(), 16, 4096
        responses = np.exp(rng.uniform(np.log(32), np.log(1024), count)).astype(int).tolist()
        prompts = rng.integers(20, 200, count).tolist()
    else:
        student, count, budget = Student.load(str(CHECKPOINTS / "student"), packing=True), 256, 32768
        responses = np.clip(rng.normal(29, 9, count), 5, 64).astype(int).tolist()
        prompts = rng.integers(6, 24, count).tolist()
    lengths = list(zip(prompts, responses, strict=True))
    parts = make_parts(lengths, student.vocab_size)
    plans = [RolloutPlan(f"r{i:04d}", *both, 1.0, 1.0, 0) for i, both in enumerate(lengths)]
    optimizer = SGD(student.parameters(), lr=0.0)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        runner = TrainStep(
            student, optimizer, LambdaLR(optimizer, lambda _: 1.0), get_objective("reverse_kl"),
            GateConfig(enabled=False), 1.0, 1e9, single_pass=True,
        )  # fmt: skip
        compare(runner, batches(parts, plans, budget), args.repeats, "wide" if args.wide else "demo")
        dist.destroy_process_group()


def batches(parts: list[Part], plans: list[RolloutPlan], budget: int) -> Callable[[bool], list[MicroBatch]]:
    """The step's micro-batches, packed or padded."""
    by_id = {plan.rollout_id: part for plan, part in zip(plans, parts, strict=True)}

    def cut(packing: bool) -> list[MicroBatch]:
        [micros] = cut_micro_batches(plans, 1, budget, 128, packing=packing)
        return [assemble([by_id[r.rollout_id] for r in m], m, step=0, total_steps=1, packing=packing) for m in micros]

    return cut


def compare(runner: TrainStep, cut: Callable[[bool], list[MicroBatch]], repeats: int, name: str) -> None:
    """Alternate; medians of CPU and wall seconds."""
    wall: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    found: dict[bool, dict[str, float]] = {}
    for repeat in range(repeats + 1):
        for packing in (False, True):
            micros = cut(packing)
            started, used = time.perf_counter(), time.process_time()
            found[packing] = runner.run(micros)
            if repeat:  # the first of each warms up
                wall[packing].append(time.perf_counter() - started)
                cpu[packing].append(time.process_time() - used)
    print(
        f"{date.today().isoformat()} {name}: {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, load {os.getloadavg()[0]:.1f}, median of {repeats}"
    )
    for packing, label in ((False, "padded"), (True, "packed")):
        m = found[packing]
        print(
            f"  {label}: {statistics.median(cpu[packing]):.3f} CPU s, {statistics.median(wall[packing]):.3f} s wall, "
            f"padding {m['padding_fraction']:.1%}, {len(cut(packing))} micro-batches, loss {m['loss']:.6f}"
        )
    print(f"  packed / padded, CPU time: {statistics.median(cpu[True]) / statistics.median(cpu[False]):.2f}")


if __name__ == "__main__":
    main()
