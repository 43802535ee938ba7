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


Outcome = tuple[dict[str, Tensor], dict[str, float]]
"""Gradient and metrics of a case."""


def run(folder: Path, out: Path, ranks: int, *cases: dict[str, Any]) -> list[Outcome]:
    """One step of each case under `ranks` real gloo processes, which are started once; `out`: a new folder."""
    out.mkdir()
    files = [out / f"{i}.safetensors" for i in range(len(cases))]
    arguments = [text for file, case in zip(files, cases, strict=True) for text in (str(file), json.dumps(case))]
    environment = {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), *arguments],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr.decode()[-3000:]
    return [(load_file(file), json.loads(file.with_suffix(".json").read_text())) for file in files]


def worst(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference relative to the largest gradient."""
    scale = max(float(t.abs().max()) for t in a.values())
    return max(float((a[k] - b[k]).abs().max()) for k in a) / scale


def test_any_cut_gives_the_same_loss_and_gradient(student_folder: Path, tmp_path: Path) -> None:
    outcomes = {}
    for ranks, micros in {1: (64, 1, 8), 2: (1, 8), 3: (4,)}.items():
        cases = [{"rollouts": 13, "micro": micro, "gate": {}} for micro in micros]
        done = run(student_folder, tmp_path / str(ranks), ranks, *cases)
        outcomes.update({(ranks, micro): outcome for micro, outcome in zip(micros, done, strict=True)})
    expected, reference = outcomes.pop((1, 64))
    assert 0 < reference["kept_fraction"] < 1
    for cut, (gradient, metrics) in outcomes.items():
        assert worst(expected, gradient) < 1e-5, cut
        assert metrics["loss"] == pytest.approx(reference["loss"], rel=1e-5), cut
        assert metrics["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-5), cut
        assert metrics["kept_fraction"] == reference["kept_fraction"], cut


def test_more_ranks_than_rollouts_and_none_that_is_kept(student_folder: Path, tmp_path: Path) -> None:
    """Some rank has nothing to do, in one pass and in two; then nobody has, which changes nothing and is counted."""
    case = {"rollouts": 1, "micro": 8, "gate": {"enabled": False}}
    empty = {"rollouts": 4, "micro": 8, "gate": {"delta": 1e6}}
    [(alone, _), *nothing] = run(student_folder, tmp_path / "1", 1, case, empty)
    cases = [{**case, "single_pass": single_pass} for single_pass in (False, True)]
    *spread, nothing_of_two = run(student_folder, tmp_path / "2", 2, *cases, empty)
    for gradient, _ in spread:
        assert worst(alone, gradient) < 1e-5
    for gradient, metrics in [*nothing, nothing_of_two]:
        assert all(bool((t == 0).all()) for t in gradient.values())
        assert (metrics["loss"], metrics["skipped"], metrics["kept_fraction"], metrics["grad_norm"]) == (0, 1, 0, 0)
        assert torch.isfinite(torch.tensor(list(metrics.values()))).all()
