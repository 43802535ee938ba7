"""FSDP2's options change where numbers are, not what they are; low precision changes them little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rgopd.common.errors import ConfigError
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.student.fsdp_options import FsdpConfig, backend_for, make_mesh, pick_device
from tests.unit.trainer.lone import lone_rank, step
from tests.unit.trainer.run.test_train_step import run, worst


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_rank(tmp_path_factory.mktemp("store")):
        yield


@pytest.fixture(scope="module")
def plain(student_folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    return step(student_folder)[:2]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"fsdp": FsdpConfig(reshard_after_forward=False)},
        {"fsdp": FsdpConfig(cpu_offload=True)},
    ],
)
def test_memory_options_give_the_same_step(student_folder: Path, plain: Any, options: Any) -> None:
    gradient, metrics, _ = step(student_folder, **options)
    assert worst(plain[0], gradient) < 1e-6
    assert metrics["loss"] == pytest.approx(plain[1]["loss"], rel=1e-6)


def test_bfloat16_computes_in_bfloat16_and_steps_in_float32(student_folder: Path, plain: Any) -> None:
    gradient, metrics, student = step(student_folder, dtype="bfloat16")
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert metrics["loss"] == pytest.approx(plain[1]["loss"], rel=2e-2)
    assert 1e-5 < worst(plain[0], gradient) < 0.1  # it did compute in bfloat16
    cosine = sum(float((plain[0][k] * gradient[k]).sum()) for k in gradient)
    cosine /= plain[1]["grad_norm"] * metrics["grad_norm"]
    assert cosine > 0.998


def test_hybrid_sharding_gives_the_same_step(student_folder: Path, tmp_path: Path) -> None:
    alone, _, _ = step(student_folder, rollouts=7, gate=GateConfig())
    case = {"rollouts": 7, "micro": 2, "gate": {}, "packing": True, "fsdp": {"replicas": 2}}
    [(replicated, _)] = run(student_folder, tmp_path / "ranks", 2, case)
    assert worst(alone, replicated) < 1e-5


def test_replicas_must_divide_the_ranks() -> None:
    with pytest.raises(ConfigError, match="does not divide 1 ranks"):
        make_mesh(torch.device("cpu"), 1, 2)


def test_the_device_is_the_cpu_where_there_is_no_gpu() -> None:
    if torch.cuda.is_available():
        assert pick_device("auto", 0) == torch.device("cuda", 0)
        with pytest.raises(ConfigError, match="lower nproc"):
            pick_device("auto", torch.cuda.device_count())
    else:
        assert pick_device("auto", 3) == torch.device("cpu")
        with pytest.raises(ConfigError, match="CUDA build"):
            pick_device("cuda", 0)
    assert pick_device("cpu", 5) == torch.device("cpu")
    assert (backend_for(torch.device("cpu")), backend_for(torch.device("cuda"))) == ("gloo", "cpu:gloo,cuda:nccl")
    with pytest.raises(ConfigError, match="use auto, cpu or cuda"):
        pick_device("tpu", 0)
