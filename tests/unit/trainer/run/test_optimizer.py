"""The optimiser's kernels by device, and that they all take the same step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from rgopd.trainer.config import OptimConfig
from rgopd.trainer.run.optimizer import adamw_kernel, make_adamw, scale_and_clip
from tests.unit.trainer.lone import load, lone_rank


@pytest.mark.parametrize(
    ("devices", "kernel"),
    [
        ({"cuda"}, {"fused": True}),
        ({"cpu"}, {"foreach": False}),
        ({"cpu", "cuda"}, {"foreach": False}),
        (set(), {"foreach": False}),
    ],
)
def test_the_kernel_by_device(devices: set[str], kernel: dict[str, bool]) -> None:
    assert adamw_kernel(devices) == kernel


@pytest.mark.parametrize("limit", [1e-3, 1e9])
def test_what_a_gpu_runs_takes_the_same_steps_on_shards(
    limit: float, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, norms = [], []
    with lone_rank(tmp_path):
        for devices in ("cpu", "cuda"):
            monkeypatch.setattr("rgopd.trainer.run.optimizer.adamw_kernel", lambda _, d=devices: adamw_kernel({d}))
            student = load(student_folder)
            parameters = list(student.parameters())
            assert all(isinstance(p, DTensor) for p in parameters)
            optimizer = make_adamw(parameters, OptimConfig(lr=1e-3, weight_decay=0.1))
            assert bool(optimizer.defaults["fused"]) == (devices == "cuda")
            rng = torch.Generator().manual_seed(0)
            for _ in range(3):
                for p in parameters:
                    p.grad = torch.zeros_like(p)
                    p.grad.to_local().copy_(torch.randn(p.to_local().shape, generator=rng))
                norms.append(scale_and_clip(parameters, 0.5, limit, at_once=devices == "cuda"))
                optimizer.step()
            found.append([p.to_local().clone() for p in parameters])
    torch.testing.assert_close(found[0], found[1], atol=1e-7, rtol=1e-6)
    assert norms[:3] == pytest.approx(norms[3:], rel=1e-6)
    whole = sum(p.numel() for p in found[0]) ** 0.5 * 0.5
    assert norms[0] == pytest.approx(whole, rel=0.02)
