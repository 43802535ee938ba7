"""One training step of a small student in this process; prints the peak of its resident memory. Run by a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.trainer.batch.micro_batch import Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.model import Student, shard


def status(key: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def part(prompt: int, response: int, vocab: int, k: int) -> Part:
    rng = np.random.default_rng(0)
    support = np.stack([rng.choice(vocab, k, replace=False) for _ in range(response)]).astype(np.int32)
    flat = np.full((response, k), -np.log(2 * k), dtype=np.float32)
    sampled = np.full(response, -2.0, dtype=np.float32)
    tail = np.full(response, -np.log(2), dtype=np.float32)
    ids = rng.integers(0, vocab, prompt + response).astype(np.int32)
    return Part(ids[:prompt], ids[prompt:], sampled, support, sampled, flat, tail)


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    base = status("VmRSS")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = Qwen2ForCausalLM(Qwen2Config(**case["model"]))
    if case["gradient_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    student = Student(model.train())
    shard(student, init_device_mesh("cpu", (1,)), case["dtype"])
    optimizer = AdamW(student.parameters(), lr=1e-4, foreach=False)
    runner = TrainStep(
        student,
        optimizer,
        LambdaLR(optimizer, lambda _: 1.0),
        get_objective("rg_opd"),
        GateConfig(enabled=False),
        1.0,
        1.0,
    )
    count, prompt, response = case["rollouts"], case["prompt"], case["response"]
    one = part(prompt, response, case["model"]["vocab_size"], case["k"])
    plans = [RolloutPlan(f"r{i}", prompt, response, 1.0, 1.0, 0) for i in range(count)]
    micro = assemble([one] * count, plans, step=0, total_steps=1)
    for _ in range(2):  # the moments exist from the end of the first step on, gradients from its first micro-batch
        runner.run([micro, micro])
    print(json.dumps({"peak": status("VmHWM"), "base": base, "parameters": sum(p.numel() for p in model.parameters())}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
