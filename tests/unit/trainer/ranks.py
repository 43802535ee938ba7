"""Training steps of given rollouts under any number of ranks and any cut; used as a torchrun-like program.

Arguments: the student's folder, then a file to write and its case (JSON), as often as wanted: most of the time goes
into starting the ranks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from rgopd.common.leave import leave
from rgopd.trainer.batch.micro_batch import Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan, cut_micro_batches
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import FsdpConfig, make_mesh
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Student, full_weights, shard
from rgopd.trainer.student.reference import make_reference


def make_part(index: int, vocab: int, k: int) -> Part:
    """A rollout of made-up ids and log-probs: deterministic in its index."""
    rng = np.random.default_rng(index)
    prompt, response = int(rng.integers(1, 6)), int(rng.integers(1, 12))
    support = np.stack([rng.choice(vocab, k, replace=False) for _ in range(response)]).astype(np.int32)
    teacher_TV = np.log(rng.dirichlet(np.full(vocab, 0.3), size=response) + 1e-9)
    topk = np.take_along_axis(teacher_TV, support, 1).astype(np.float32)
    tail = np.log(np.maximum(1 - np.exp(topk.astype(np.float64)).sum(1), 1e-7)).astype(np.float32)
    response_ids = rng.integers(0, vocab, response).astype(np.int32)
    sampled = teacher_TV[np.arange(response), response_ids].astype(np.float32)
    prompt_ids = rng.integers(0, vocab, prompt).astype(np.int32)
    return Part(prompt_ids, response_ids, sampled - 0.1, support, sampled, topk, tail)


def main() -> None:
    folder, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for out, case in zip(cases[::2], cases[1::2], strict=True):
        run(Path(folder), Path(out), json.loads(case))
    dist.destroy_process_group()
    leave(0)


def run(folder: Path, out: Path, case: dict[str, Any]) -> None:
    """One case: what its steps took from the weights goes to `out`, the last step's metrics beside it."""
    packing, lora = case.get("packing", False), LoraOptions(**case["lora"]) if "lora" in case else None

    def load() -> Student:
        torch.manual_seed(0)
        checkpointing = case.get("checkpointing", False)
        loaded = Student.load(str(folder), packing=packing, gradient_checkpointing=checkpointing, lora=lora)
        options = FsdpConfig(**case.get("fsdp", {}))
        mesh = make_mesh(torch.device("cpu"), dist.get_world_size(), options.replicas)
        shard(loaded, mesh, case.get("dtype", "float32"), options)
        return loaded

    student = load()
    parts = {f"r{i:03d}": make_part(i, 40, 6) for i in range(case["rollouts"])}
    plans = [
        RolloutPlan(name, len(p.prompt_ids_C), len(p.response_ids_T), float(i % 2), [1.0, -1.0, 0.0][i % 3], 0)
        for i, (name, p) in enumerate(parts.items())
    ]
    shares = cut_micro_batches(plans, dist.get_world_size(), 10_000, case["micro"], packing=packing)
    # Plain SGD at rate 1: the change of the weights is the gradient.
    optimizer = SGD([p for p in student.parameters() if p.requires_grad], lr=1.0, foreach=False)
    objective = get_objective(**case.get("objective", {"name": "rg_opd"}))
    runner = TrainStep(
        student,
        optimizer,
        LambdaLR(optimizer, lambda _: 1.0),
        objective,
        GateConfig(**case["gate"]),
        1.0,
        1e9,
        single_pass=case.get("single_pass", False),
        reference=make_reference(student, load, 1.0, wanted=objective.needs_reference),
    )
    before = {k: v.clone() for k, v in full_weights(student, "float32").items()}  # on one rank they are the parameters
    micro = [
        assemble([parts[r.rollout_id] for r in m], m, step=0, total_steps=1, packing=packing)
        for m in shares[dist.get_rank()]
    ]
    for _ in range(case.get("steps", 1)):
        metrics = runner.run(micro)
    after = full_weights(student, "float32")
    if dist.get_rank() == 0:
        save_file({k: (before[k] - after[k]).contiguous() for k in after}, out)
        out.with_suffix(".json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main()
