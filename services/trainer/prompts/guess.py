"""What the first rows of a dataset look like, and which kind of check they allow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rgopd.trainer.prompts.files import Row

PROMPTS = ("prompt", "question", "problem", "instruction", "query", "input", "messages", "text", "task")
REFERENCES = (
    "reference",
    "answer",
    "final_answer",
    "expected_answer",
    "ground_truth",
    "target",
    "label",
    "solution",
    "output",
)
SHORT = 40
"""Characters up to which a reference may be compared as it stands."""


@dataclass(frozen=True)
class Guess:
    """How to read a dataset, as settings of `train.dataset`."""

    kind: str
    """"" where the rows allow no check."""
    settings: dict[str, Any] = field(default_factory=dict)
    why: str = ""


def guess(rows: Sequence[Row]) -> Guess:
    """By the columns and values of some rows."""
    if not rows:
        return Guess("", why="there are no rows")
    columns = {key for row in rows for key, value in row.items() if value is not None}
    if "kind" in columns and "prompt" in columns:
        kinds = sorted({str(row["kind"]) for row in rows if row.get("kind")})
        return Guess(", ".join(kinds), why=f"rows name their kind: {', '.join(kinds)}")
    if published := _published(rows, columns):
        return published
    prompt = next((name for name in PROMPTS if name in columns), "")
    if not prompt:
        return Guess("", why=f"no column looks like a prompt (there are {', '.join(sorted(columns))})")
    settings: dict[str, Any] = {"map": {"prompt": prompt}} if prompt != "prompt" else {}
    if {"tests", "test", "checker"} & columns:
        return Guess("code", {**settings, "kind": "code"}, "rows hold tests, so programs are run against them")
    reference = next((name for name in REFERENCES if name in columns and name != prompt), "")
    if not reference:
        return Guess("", settings, f"no column holds a reference or tests (there are {', '.join(sorted(columns))})")
    values = [str(row[reference]) for row in rows if row.get(reference) is not None]
    if reference != "reference":
        settings["map"] = {**settings.get("map", {}), "reference": reference}
    kind, why = _kind(values, reference)
    return Guess(kind, {**settings, "kind": kind} if kind else settings, why)


def _published(rows: Sequence[Row], columns: set[str]) -> Guess | None:
    def like(layout: str, why: str) -> Guess:
        kind = "code" if layout == "mbpp" else "math"
        return Guess(kind, {"layout": layout}, f"{why}: read with the layout {layout}")

    if {"question", "answer"} <= columns and all("####" in str(row.get("answer")) for row in rows):
        return like("gsm8k", "answers end in '#### number'")
    if {"reward_model", "prompt"} <= columns:
        return like("eurus", "rows have reward_model.ground_truth")
    if {"task_id", "test_list"} <= columns:
        return like("mbpp", "rows have test_list")
    if {"instruction", "response", "parent_id"} <= columns:
        return like("ultrainteract", "rows are nodes of trees of attempts")
    if "problem" in columns and "solution" in columns and all("\\boxed" in str(r.get("solution")) for r in rows):
        return like("math", "solutions end in a box")
    return None


def _kind(values: Sequence[str], column: str) -> tuple[str, str]:
    if all(re.fullmatch(r"\(?[A-Ja-j]\)?\.?", v.strip()) for v in values):
        return "choice", f"{column!r} holds letters, so the chosen letter is compared"
    if all(_mathematical(v) for v in values):
        return "math", f"{column!r} holds numbers or formulas, which are compared by value"
    if all(len(v) <= SHORT for v in values):
        return "exact", f"{column!r} holds short text, which is compared as it stands"
    return "", (
        f"{column!r} holds long text, which no rule can judge: give a short reference, tests, or a grader of your own "
        "(kind python in docs/verifier.md)"
    )


def _mathematical(value: str) -> bool:
    text = value.strip()
    if not text or len(text) > 200:
        return False
    return (
        "\\" in text
        or "$" in text
        or bool(re.fullmatch(r"[-+]?[\d.,/%^*() \-+:a-zA-Z]{0,3}[\d][\d.,/%^*() ]*[a-zA-Z%°]{0,3}", text))
    )
