"""Hendrycks' MATH and its relatives: columns problem, solution, and level, type (or answer, subject as in MATH-500)."""

from __future__ import annotations

from rgopd.trainer.prompts.datasets.answers import last_boxed, usable
from rgopd.trainer.prompts.datasets.base import BOXED, LeftOut, Row, Tally, row_id, text


def convert_row(row: Row, tally: Tally) -> Row:
    """One row; an `answer` column wins over the solution's last box."""
    problem = text(row, "problem")
    answer = row.get("answer")
    if not isinstance(answer, str) or not answer.strip():
        answer = last_boxed(text(row, "solution"))
    if answer is None:
        raise LeftOut("no boxed answer in the solution")
    if "[asy]" in problem:
        tally.notes["problem with a drawing as Asymptote code"] += 1
    return {
        "id": row_id("math", problem),
        "prompt": problem + BOXED,
        "kind": "math",
        "reference": usable(answer),
        "domain": str(row.get("type") or row.get("subject") or "math"),
    }
