# ruff: noqa: E501 - programs under test, one a line
"""Right programs whose values and tests are numpy's, pandas', scipy's, networkx's and sympy's: passed; wrong ones not.

Run by `make test-packages`; RGOPD_TEST_PYTHON names an interpreter that has every package of the setting `packages`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Verdict
from tests.unit.verifier.code.test_asserts_idioms import read

IDIOMS = read(Path(__file__).with_name("idioms.txt"))


@pytest.fixture(scope="module", params=["auto", "3"])
def engine(request: pytest.FixtureRequest) -> Iterator[VerifierEngine]:
    settings: dict[str, Any] = {"rung": request.param, "python": os.environ["RGOPD_TEST_PYTHON"]}
    made, _ = build_engine(VerifierConfig(workers=1, math_workers=1, **settings))
    yield made
    made.close()


def judged(engine: VerifierEngine, program: str, test: str) -> Verdict:
    return engine.check([Item("x", "code", program, {"tests": [test]})])[0]


@pytest.mark.parametrize("name", IDIOMS)
def test_a_right_program_passes(engine: VerifierEngine, name: str) -> None:
    verdict = judged(engine, IDIOMS[name][""], IDIOMS[name]["test"])
    assert verdict.status == "passed", verdict.reason


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("import numpy as np\ndef f(): return np.array([1, 3])", "import numpy as np\nassert np.allclose(f(), [1, 2])"),
        (
            "import numpy as np\nclass A(np.ndarray):\n    def __eq__(s, o): return np.array(True)\n    def all(s): return True\n"
            "def f(): return np.array([1]).view(A)",
            "import numpy as np\nassert (f() == np.array([2])).all()",
        ),
        (
            "import pandas as pd\ndef f(): return pd.DataFrame({'a': [1]})",
            "import pandas as pd\npd.testing.assert_frame_equal(f(), pd.DataFrame({'a': [2]}))",
        ),
        (
            "import pandas as pd\nclass D(pd.DataFrame):\n    def equals(s, o): return True\ndef f(): return D({'a': [1]})",
            "import pandas as pd\nassert pd.DataFrame({'a': [2]}).equals(f())",
        ),
        ("import numpy as np\ndef f(a): pass", "import numpy as np\na = np.array([1])\nf(a)\nassert a[0] == 2"),
        ("import sympy\ndef f(): return sympy.Symbol('x')", "import sympy\nassert f() == sympy.Symbol('y')"),
    ],
)
def test_a_wrong_one_does_not(engine: VerifierEngine, program: str, test: str) -> None:
    assert judged(engine, program, test).status == "failed"
