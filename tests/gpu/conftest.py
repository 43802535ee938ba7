"""The device: cuda, or what RGOPD_TEST_DEVICE says. Without a GPU the session ends: nothing is skipped."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("RGOPD_TEST_DEVICE", "cuda")


def pytest_sessionstart() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.exit("no GPU: torch.cuda is not available (RGOPD_TEST_DEVICE=cpu tries the tests on a CPU)", 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DEVICE == "cpu":  # inductor's C++ takes a compiler minutes; a GPU's session has no minutes for what hangs
        for item in items:
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(scope="session")
def student_folder() -> Path:
    return Path(str(files("rgopd.trainer.demo") / "checkpoints" / "student"))
