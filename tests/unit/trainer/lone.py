"""One training step in this process, as the only rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from rgopd.trainer.batch.micro_batch import Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import FsdpConfig, make_mesh
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Student, full_weights, shard
from rgopd.trainer.student.reference import make_reference
from tests.unit.trainer.ranks import make_part


@contextmanager
def lone_rank(folder: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def load(
    folder: Path, *, dtype: str = "float32", fsdp: FsdpConfig | None = None, packing: bool = True, **options: Any
) -> Student:
    torch.manual_seed(0)
    student = Student.load(str(folder), packing=packing, **options)
    shard(student, make_mesh(torch.device("cpu"), 1, 1), dtype, fsdp)
    return student


def plans_of(parts: list[Part]) -> list[RolloutPlan]:
    """As in ranks.py."""
    return [
        RolloutPlan(f"r{i:03d}", len(p.prompt_ids_C), len(p.response_ids_T), float(i % 2), [1.0, -1.0, 0.0][i % 3], 0)
        for i, p in enumerate(parts)
    ]


def step(
    folder: Path,
    *,
    steps: int = 1,
    objective: dict[str, Any] | None = None,
    lora: LoraOptions | None = None,
    rollouts: int = 6,
    packing: bool = True,
    gate: GateConfig | None = None,
    unscored_tokens: float = 0.0,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, float], Student]:
    """Change of the weights by plain SGD at rate 1 (the gradient, for one step), metrics, and the student."""
    student = load(folder, lora=lora, packing=packing, **options)
    parts = [make_part(i, 40, 6) for i in range(rollouts)]
    plans = plans_of(parts)
    chosen = get_objective(**(objective or {"name": "reverse_kl"}))
    optimizer = SGD([p for p in student.parameters() if p.requires_grad], lr=1.0, foreach=False)
    runner = TrainStep(
        student,
        optimizer,
        LambdaLR(optimizer, lambda _: 1.0),
        chosen,
        gate or GateConfig(enabled=False),
        1.0,
        1e9,
        reference=make_reference(student, lambda: load(folder), 1.0, wanted=chosen.needs_reference),
        importance_clip=getattr(chosen, "importance_clip", None),
    )
    before = {k: v.clone() for k, v in full_weights(student, "float32").items()}
    for _ in range(steps):
        micro = assemble(parts, plans, step=0, total_steps=1, packing=packing)
        metrics = runner.run([micro], unscored_tokens=unscored_tokens)
    after = full_weights(student, "float32")
    return {k: before[k] - after[k] for k in after}, metrics, student
