from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def student_folder() -> Path:
    """The demo's student: a real 0.26M-parameter Qwen2 with its tokenizer."""
    return Path(str(files("rgopd.trainer.demo") / "checkpoints" / "student"))


@pytest.fixture(scope="session")
def teacher_folder() -> Path:
    return Path(str(files("rgopd.trainer.demo") / "checkpoints" / "teacher"))
