from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from rgopd.cli.processes import Child

CHECKPOINTS = files("rgopd.trainer.demo") / "checkpoints"
STUDENT, TEACHER = str(CHECKPOINTS / "student"), str(CHECKPOINTS / "teacher")
EXAMPLES = Path(__file__).parents[2] / "examples"


def serve(name: str, folder: Path, *settings: str) -> Child:
    """A service, started."""
    sets = [word for setting in settings for word in ("--set", setting)]
    child = Child(name, [sys.executable, "-m", "rgopd.cli.main", name, *sets], folder)
    child.start()
    return child


@pytest.fixture(scope="session", autouse=True)
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A verifier and a teacher where the examples look for them."""
    folder = tmp_path_factory.mktemp("services")
    verifier = serve("verifier", folder, "workers=1", "math_workers=1")
    teacher = serve("teacher", folder, f"model={TEACHER}", "dtype=float32")
    os.environ["VERIFIER"], os.environ["TEACHER"] = verifier.wait_ready(300), teacher.wait_ready(300)
    os.environ["CPU"] = "1"
    yield
    for child in (verifier, teacher):
        child.stop()
