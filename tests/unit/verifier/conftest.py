"""One real engine for the folder: the best rung of this machine, real math workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Verdict

GRADER = """
def grade(response, length=0, mode="bool"):
    right = len(response) == length
    return {"bool": right, "number": 0.25, "dict": {"status": "failed", "reward": 0.5, "reason": "half"},
            "bad": "what", "none": None}[mode] if mode != "raise" else 1 / 0
"""


@pytest.fixture(scope="session")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerifierEngine]:
    source = tmp_path_factory.mktemp("graders") / "mine.py"
    source.write_text(GRADER)
    engine, _ = build_engine(
        VerifierConfig(workers=2, math_workers=1, math_deadline_s=1.0, python_graders={"mine": Path(source)})
    )
    yield engine
    assert engine.drain(30)
    engine.close()


Judge = Callable[..., Verdict]


@pytest.fixture
def judge(verifier: VerifierEngine) -> Judge:
    def run(kind: str, response: str, **fields: Any) -> Verdict:
        return verifier.check([Item("x", kind, response, fields)])[0]

    return run
