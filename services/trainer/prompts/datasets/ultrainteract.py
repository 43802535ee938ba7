r"""openbmb/UltraInteract_sft: columns task, dataset, instruction, response, id, parent_id; no column holds an answer.

Every row is a node of a tree of attempts, and many share one problem (78,349 Math_CoT rows hold 22,927 problems), so
rows are gathered by problem. Math_CoT: the answer is the last \boxed{} of the responses, where they all agree; some
responses are failed attempts, and a problem whose attempts disagree is left out. Coding: only where there are tests.
Rows of the dataset itself have none; a `tests` column that somebody added is taken, and with `code_examples` the
input/output examples in the statements of `codecontest` (one to three weak tests each, and some problems have several
right outputs, so this is off by default). Math_PoT asks for a program whose printed output is the answer, Logic has no
verifier: both are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rgopd.trainer.prompts.datasets.answers import agreed, last_boxed, usable
from rgopd.trainer.prompts.datasets.base import Judge, LeftOut, Row, Tally, row_id, text

_START = re.compile(r"^\s*(examples?|sample tests?)\s*:?\s*$", re.IGNORECASE)
_INPUT = re.compile(r"^\s*(sample\s+)?input\s*#?\d*\s*:?\s*$", re.IGNORECASE)
_OUTPUT = re.compile(r"^\s*(sample\s+)?output\s*#?\d*\s*:?\s*$", re.IGNORECASE)
_SAMPLE_INPUT = re.compile(r"^\s*sample\s+input\s*#?\d*\s*:?\s*$", re.IGNORECASE)
_END = re.compile(r"^\s*(note|notes|explanation|constraints)\s*:?\s*$", re.IGNORECASE)

_WHY_NOT = {
    "Math_PoT": "task Math_PoT: the answer is what a program prints; there is no reference",
    "Logic": "task Logic: no reference that a verifier could check",
}


@dataclass
class _Problem:
    instruction: str
    source: str
    answers: list[str] = field(default_factory=list)
    without_answer: int = 0


class UltraInteract:
    """See the module.

    Args:
        judge: compares the answers of several attempts at one problem.
        code_examples: take the examples in `codecontest` statements as tests.
    """

    def __init__(self, judge: Judge, *, code_examples: bool = False) -> None:
        self.judge = judge
        self.code_examples = code_examples

    def convert(self, rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
        """See `Converter`. Coding rows come as they are read, mathematics after the last row."""
        problems: dict[str, _Problem] = {}
        for row in rows:
            tally.read += 1
            try:
                if str(row.get("task")) == "Math_CoT":
                    self._gather(row, problems)
                elif str(row.get("task")) == "Coding":
                    yield self._coding(row)
                else:
                    task = row.get("task")
                    raise LeftOut(_WHY_NOT.get(str(task), f"task {task!r}: not one of UltraInteract's"))
            except LeftOut as reason:
                tally.left_out[str(reason)] += 1
        for problem in problems.values():
            spare = len(problem.answers) + problem.without_answer - 1
            if spare:
                tally.left_out["another attempt at the same problem"] += spare
            try:
                yield self._math(problem)
            except LeftOut as reason:
                tally.left_out[str(reason)] += 1

    def _gather(self, row: Row, problems: dict[str, _Problem]) -> None:
        instruction = text(row, "instruction")
        if "\\boxed" not in instruction:
            raise LeftOut("the instruction does not ask for a boxed answer (a later turn of a dialogue)")
        source = str(row.get("dataset") or "math")
        problem = problems.setdefault(" ".join(instruction.split()), _Problem(instruction, source))
        answer = last_boxed(text(row, "response"))
        if answer is None:
            problem.without_answer += 1
        else:
            problem.answers.append(answer)

    def _math(self, problem: _Problem) -> Row:
        if not problem.answers:
            raise LeftOut("no response with a boxed answer")
        return {
            "id": row_id("ultrainteract", problem.instruction),
            "prompt": problem.instruction,
            "kind": "math",
            "reference": usable(agreed(problem.answers, self.judge)),
            "domain": problem.source,
        }

    def _coding(self, row: Row) -> Row:
        source = str(row.get("dataset") or "code")
        instruction = text(row, "instruction")
        tests: list[Any] = list(row.get("tests") or [])
        if not tests and self.code_examples and source == "codecontest":
            tests = [{"stdin": i, "stdout": o} for i, o in stdio_examples(instruction)]
            if not tests:
                raise LeftOut("task Coding: no input/output examples found in the statement")
        if not tests:
            raise LeftOut("task Coding: no tests (the dataset has none; --code-examples takes codecontest's examples)")
        return {
            "id": row_id("ultrainteract", instruction),
            "prompt": instruction,
            "kind": "code",
            "tests": tests,
            "domain": source,
        }


def stdio_examples(statement: str) -> list[tuple[str, str]]:
    """(input, output) of the examples at the end of a contest problem's statement.

    The words Input and Output also head the description, so only what follows a line `Examples` or `SAMPLE INPUT`
    counts. Unpaired blocks make the whole statement unusable: the list is empty.
    """
    lines = statement.splitlines()
    starts = [i for i, line in enumerate(lines) if _START.match(line)]
    if not starts:
        starts = [i for i, line in enumerate(lines) if _SAMPLE_INPUT.match(line)][:1]
    if not starts:
        return []
    blocks: list[tuple[str, list[str]]] = []
    for line in lines[starts[-1] :]:
        if _END.match(line):
            break
        if _INPUT.match(line):
            blocks.append(("in", []))
        elif _OUTPUT.match(line):
            blocks.append(("out", []))
        elif blocks:
            blocks[-1][1].append(line)
    if [kind for kind, _ in blocks] != ["in", "out"] * (len(blocks) // 2):
        return []
    texts = ["\n".join(block).strip("\n") + "\n" for _, block in blocks]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    return pairs if all(output.strip() for _, output in pairs) else []
