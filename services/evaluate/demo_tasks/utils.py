"""Metric of the demo's code tasks, as lm-eval's own mbpp has it: `rgopd eval` puts the sandbox in code_eval's place."""

from __future__ import annotations

from typing import Any

import evaluate

code_eval: Any = evaluate.load("code_eval")


def pass_at_1(references: list[str], predictions: list[str]) -> float:
    """1 where the program passes its asserts."""
    return float(code_eval.compute(references=references, predictions=[[p] for p in predictions], k=[1])[0]["pass@1"])
