"""openai/gsm8k: columns question, answer; the answer is worked out and ends in `#### <number>`."""

from __future__ import annotations

from rgopd.trainer.prompts.datasets.answers import usable
from rgopd.trainer.prompts.datasets.base import BOXED, LeftOut, Row, Tally, row_id, text


def convert_row(row: Row, tally: Tally) -> Row:
    """One row; thousands separators are taken out of the number."""
    question = text(row, "question")
    _, mark, number = text(row, "answer").rpartition("####")
    if not mark:
        raise LeftOut("no '####' before the answer")
    return {
        "id": row_id("gsm8k", question),
        "prompt": question + BOXED,
        "kind": "math",
        "reference": usable(number.strip().replace(",", "")),
        "domain": "gsm8k",
    }
