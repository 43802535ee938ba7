"""google-research-datasets/mbpp, both layouts: full (text, test_list, test_setup_code, challenge_test_list) and
sanitized (prompt, test_list, test_imports)."""

from __future__ import annotations

from typing import Any

from rgopd.trainer.prompts.datasets.base import LeftOut, Row, Tally, row_id, text

PROMPT = (
    "{task}\n\nYour code should pass these tests:\n```python\n{tests}\n```\n\nThink step by step, then give the whole "
    "program in one ```python code block."
)


def convert_row(row: Row, tally: Tally) -> Row:
    """One row. The tests are shown, as is customary (they name the function); challenge tests are not, but count."""
    task = text(row, "text" if row.get("text") else "prompt")
    shown = _strings(row.get("test_list"))
    if not shown:
        raise LeftOut("no tests")
    setup = [str(row.get("test_setup_code") or ""), *_strings(row.get("test_imports"))]
    converted = {
        "id": f"mbpp-{row['task_id']}" if row.get("task_id") is not None else row_id("mbpp", task),
        "prompt": PROMPT.format(task=task, tests="\n".join(shown)),
        "kind": "code",
        "tests": shown + _strings(row.get("challenge_test_list")),
        "domain": "mbpp",
    }
    if any(setup):
        converted["setup"] = "\n".join(line for line in setup if line)
    return converted


def _strings(value: Any) -> list[str]:
    return [v for v in value or [] if isinstance(v, str) and v.strip()]
