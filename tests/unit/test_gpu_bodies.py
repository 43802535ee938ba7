"""The code of tests/gpu runs: its cheap parts on a CPU; and without a GPU its target says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import bodies


@pytest.mark.filterwarnings("ignore")
def test_a_step_and_a_resumed_one(student_folder: Path, tmp_path: Path) -> None:
    with bodies.lone_rank("cpu", tmp_path):
        bodies.check_step("cpu", student_folder, tmp_path, 1e-6)
        bodies.check_resume("cpu", student_folder, tmp_path)


def test_the_head() -> None:
    bodies.check_head("cpu", torch.float32, "torch", 2e-5)


def test_the_teacher_and_the_sampler(student_folder: Path, tmp_path: Path) -> None:
    bodies.check_teacher("cpu", tmp_path, "float32", "torch", 1e-4)
    bodies.check_sampler("cpu", student_folder, 1e-4)


def test_without_a_gpu_it_says_so(repository: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "RGOPD_TEST_DEVICE": "cuda"}
    command = [sys.executable, "-m", "pytest", "-q", "tests/gpu"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no GPU" in done.stdout + done.stderr
