"""Head, step, checkpoint, teacher and sampler on one GPU against float64 or a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rgopd.trainer.objectives.registry import names
from tests.gpu import bodies

# The tracer's own; TF32 and autograd hints that a CPU never gives.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def _rank(device: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with bodies.lone_rank(device, tmp_path_factory.mktemp("rank")):
        yield


def test_triton_is_real(device: str) -> None:
    from triton import knobs

    assert knobs.runtime.interpret == (device != "cuda")


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_the_head(device: str, dtype: torch.dtype, tolerance: float, kernels: str) -> None:
    bodies.check_head(device, dtype, kernels, tolerance)


@pytest.mark.parametrize("name", names())
def test_every_objective(device: str, student_folder: Path, tmp_path: Path, name: str) -> None:
    objective = {"name": name, "options": bodies.OPTIONS.get(name, {})}
    bodies.check_step(device, student_folder, tmp_path, 1e-3, objective=objective)


CHANGES = {
    "bfloat16": ({"dtype": "bfloat16"}, 0.1),
    "checkpointing": ({"gradient_checkpointing": True}, 1e-3),
    "LoRA": ({"lora": {"r": 4}}, 1e-3),
    "compiled layers": ({"compile": "layers"}, 1e-3),
    "compiled layers, bfloat16, checkpointing, LoRA": (
        {"compile": "layers", "dtype": "bfloat16", "gradient_checkpointing": True, "lora": {"r": 4}}, 0.1,
    ),
    "LoRA, bfloat16, checkpointing": (
        {"lora": {"r": 4}, "dtype": "bfloat16", "gradient_checkpointing": True}, 0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_with(device: str, student_folder: Path, tmp_path: Path, name: str) -> None:
    options, tolerance = CHANGES[name]
    bodies.check_step(device, student_folder, tmp_path, tolerance, **options)


@pytest.mark.parametrize("options", [{}, {"lora": {"r": 4}}], ids=["whole", "LoRA"])
def test_resumed(device: str, student_folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    bodies.check_resume(device, student_folder, tmp_path, **options)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_the_teacher(device: str, tmp_path: Path, dtype: str, tolerance: float, kernels: str) -> None:
    bodies.check_teacher(device, tmp_path, dtype, kernels, tolerance)


def test_the_sampler(device: str, student_folder: Path) -> None:
    bodies.check_sampler(device, student_folder, 1e-4)
