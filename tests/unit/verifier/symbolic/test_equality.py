"""Right answers in spellings that graders have been reported to miss, and wrong ones beside them: cases/*.tsv, one
line a case (equal or different, reference, response; ⏎ is a line break). What is debatable: docs/decisions/050."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.verifier.symbolic.answers import judge

FILES = sorted((Path(__file__).parent / "cases").glob("*.tsv"))
STATUS = {"equal": "passed", "different": "failed"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kind(file: Path) -> None:
    lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    assert {line[0] for line in lines} == set(STATUS), "right and wrong answers both"
    wrong = []
    for expected, reference, response in lines:
        verdict = judge({"references": [reference], "response": response.replace("⏎", "\n")})
        if verdict["status"] != STATUS[expected]:
            wrong.append((expected, reference, response, verdict))
    assert not wrong
