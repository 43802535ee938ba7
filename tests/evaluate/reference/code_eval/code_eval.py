"""`evaluate`'s metric code_eval for lm-eval's own command line where there is no hub: each program in a process.

Only what the reference run needs; it is not isolated, and sees nothing but what SmolLM2 writes for the four rows here.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import datasets
import evaluate


class CodeEval(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
        )
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions: Any, references: Any, k: Any = (1,)) -> Any:
        passed = [self._passes(programs[0], test) for programs, test in zip(predictions, references, strict=True)]
        return {"pass@1": sum(passed) / len(passed)}, {}

    def _passes(self, program: str, test: str) -> bool:
        try:
            argv = [sys.executable, "-I", "-c", f"{program}\n{test}"]
            return subprocess.run(argv, timeout=20, check=False, capture_output=True).returncode == 0
        except (subprocess.TimeoutExpired, ValueError):
            return False
