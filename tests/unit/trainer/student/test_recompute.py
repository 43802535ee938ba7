"""Selective activation checkpointing: the same gradient, no product twice, and less memory than without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.student.model import Student
from rgopd.trainer.student.recompute import Checkpointing
from tests.unit.trainer.batch.test_packing import batch, hidden_states
from tests.unit.trainer.lone import lone_rank, step


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.found[name] = self.found.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def counts(folder: Path, how: Checkpointing) -> tuple[dict[str, int], int]:
    """Operators of forward and backward, and bytes that autograd holds in between."""
    student, micro = Student.load(str(folder), gradient_checkpointing=how), batch(7, packing=False)
    held: dict[int, int] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Calls() as calls:
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            loss = hidden_states(student, micro).sum()
        loss.backward()
    return calls.found, sum(held.values())


def test_products_are_made_once_and_what_lies_between_twice(student_folder: Path) -> None:
    (plain, most), (selective, _), (full, _) = (counts(student_folder, how) for how in (False, "selective", True))
    assert selective["mm"] + selective["addmm"] == plain["mm"] + plain["addmm"]
    assert selective["silu"] == full["silu"] == 2 * plain["silu"]
    assert full["mm"] + full["addmm"] > 1.2 * (plain["mm"] + plain["addmm"])
    attention = next(name for name in plain if "scaled_dot_product" in name and "backward" not in name)
    assert selective[attention] == plain[attention]
    assert full[attention] == 2 * plain[attention]
    assert most > 0


@pytest.mark.parametrize("packing", [True, False])
def test_the_gradient_is_the_same_to_the_bit(student_folder: Path, tmp_path: Path, packing: bool) -> None:
    with lone_rank(tmp_path):
        found = [
            step(student_folder, gradient_checkpointing=how, packing=packing, gate=GateConfig(), rollouts=9)[:2]
            for how in (False, "selective")
        ]
    assert found[0][1] == found[1][1]
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in found[0][0])
