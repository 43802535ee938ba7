"""Metrics of pinned tasks that lm-eval cannot compute beside our grader.

lm-eval's `minerva_math` has a math_verify metric, but its module refuses any antlr4 runtime but 4.11, and math-verify
in the verifier stands on 4.13. `hendrycks_math` has the same problems and no such metric: here it gets it.
"""

from __future__ import annotations

from typing import Any


def math_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """math_verify: the response's answer equals the solution's, as `minerva_math` computes it; exact_match: as
    `hendrycks_math` does, on what stands between the response's first and last dollar sign."""
    from lm_eval.tasks.hendrycks_math.utils import process_results
    from math_verify import parse, verify

    right = verify(gold=parse(doc["solution"]), target=parse(results[0]))
    return {"math_verify": float(right), "exact_match": float(process_results(doc, results)["exact_match"])}
