"""Eq. 3 is one global ratio: loss and gradient do not depend on how a step is cut into ranks and micro-batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rgopd.common.embedded import free_port

PROGRAM = Path(__file__).parents[1] / "ranks.py"


def run(folder: Path, out: Path, ranks: int, **case: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One step under `ranks` real gloo processes; returns gradient and metrics."""
    environment = {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), str(out), json.dumps(case)],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()[-3000:]
    return load_file(out), json.loads(out.with_suffix(".json").read_text())


def worst(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference relative to the largest gradient."""
    scale = max(float(t.abs().max()) for t in a.values())
    return max(float((a[k] - b[k]).abs().max()) for k in a) / scale


@pytest.fixture(scope="module")
def reference(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    out = tmp_path_factory.mktemp("ranks") / "one.safetensors"
    return run(student_folder, out, 1, rollouts=13, micro=64, gate={})


@pytest.mark.parametrize(("ranks", "micro"), [(1, 1), (1, 8), (2, 1), (2, 8), (3, 4)])
def test_any_cut_gives_the_same_loss_and_gradient(
    student_folder: Path, tmp_path: Path, reference: tuple[Any, Any], ranks: int, micro: int
) -> None:
    gradient, metrics = run(student_folder, tmp_path / "g.safetensors", ranks, rollouts=13, micro=micro, gate={})
    assert worst(reference[0], gradient) < 1e-5
    assert metrics["loss"] == pytest.approx(reference[1]["loss"], rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(reference[1]["grad_norm"], rel=1e-5)
    assert metrics["kept_fraction"] == reference[1]["kept_fraction"]
    assert 0 < metrics["kept_fraction"] < 1


@pytest.mark.parametrize("single_pass", [False, True])
def test_more_ranks_than_rollouts_is_the_same_too(student_folder: Path, tmp_path: Path, single_pass: bool) -> None:
    alone, _ = run(student_folder, tmp_path / "a.safetensors", 1, rollouts=1, micro=8, gate={"enabled": False})
    case = {"rollouts": 1, "micro": 8, "gate": {"enabled": False}, "single_pass": single_pass}
    spread, _ = run(student_folder, tmp_path / "b.safetensors", 2, **case)
    assert worst(alone, spread) < 1e-5


def test_an_empty_kept_set_changes_nothing_and_is_counted(student_folder: Path, tmp_path: Path) -> None:
    gradient, metrics = run(student_folder, tmp_path / "g.safetensors", 1, rollouts=4, micro=8, gate={"delta": 1e6})
    assert all(bool((t == 0).all()) for t in gradient.values())
    assert (metrics["loss"], metrics["skipped"], metrics["kept_fraction"], metrics["grad_norm"]) == (0, 1, 0, 0)
    assert torch.isfinite(torch.tensor(list(metrics.values()))).all()
