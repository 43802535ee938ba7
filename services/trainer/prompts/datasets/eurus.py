"""PRIME-RL/Eurus-2-RL-Data and others in its layout: data_source, prompt (messages), ability, reward_model, extra_info.

`reward_model.ground_truth` is a LaTeX answer for mathematics, and for code a JSON object {inputs, outputs[, fn_name]}
whose lists may themselves be written as Python source. The system turn (an action format of that project's method) is
dropped: the user's turn says what form the answer must have. Problems with `fn_name` are taken on request only: their
expected values are wrapped in a one-element list in some sources and not in others.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from rgopd.trainer.prompts.datasets.answers import usable
from rgopd.trainer.prompts.datasets.base import LeftOut, Row, Tally, row_id

CODE_SOURCES = frozenset({"taco", "codecontests", "apps", "codeforces"})


class Eurus:
    """One row at a time, for `RowConverter`.

    Args:
        max_tests: tests kept of a code problem (0: all; the median of `codecontests` is over 100, which every rollout
            would be run against).
        functions: take problems that name a function to call.
    """

    def __init__(self, *, max_tests: int = 32, functions: bool = False) -> None:
        self.max_tests = max_tests
        self.functions = functions

    def __call__(self, row: Row, tally: Tally) -> Row:
        """Convert."""
        turns = [m for m in row.get("prompt") or [] if isinstance(m, dict) and m.get("role") == "user"]
        if not turns or not str(turns[-1].get("content") or "").strip():
            raise LeftOut("no user turn in the prompt")
        prompt = str(turns[-1]["content"]).strip()
        source = str(row.get("data_source") or row.get("ability") or "eurus")
        truth = (row.get("reward_model") or {}).get("ground_truth")
        if not isinstance(truth, str) or not truth.strip():
            raise LeftOut("no reward_model.ground_truth")
        common = {"id": row_id("eurus", prompt), "prompt": prompt, "domain": source}
        if source in CODE_SOURCES or row.get("ability") in ("code", "coding"):
            return {**common, "kind": "code", **self._tests(truth, tally)}
        return {**common, "kind": "math", "reference": usable(truth)}

    def _tests(self, truth: str, tally: Tally) -> Row:
        inputs, outputs, name = _parse(truth)
        if self.max_tests and len(inputs) > self.max_tests:
            tally.notes[f"code problem cut to its first {self.max_tests} tests"] += 1
            inputs, outputs = inputs[: self.max_tests], outputs[: self.max_tests]
        if not name:
            pairs = zip(inputs, outputs, strict=True)
            return {"tests": [{"stdin": _lines(i), "stdout": _lines(o)} for i, o in pairs]}
        if not self.functions:
            raise LeftOut("tests call a function (--functions takes these)")
        if not all(isinstance(i, list) for i in inputs):
            raise LeftOut("tests call a function, but their inputs are not lists of arguments")
        wrapped = all(isinstance(o, list) and len(o) == 1 for o in outputs)
        expected = [o[0] for o in outputs] if wrapped else outputs
        tests = [{"args": i, "expected": o} for i, o in zip(inputs, expected, strict=True)]
        return {"entry_point": name, "tests": tests}


def _parse(truth: str) -> tuple[list[Any], list[Any], str]:
    try:
        loaded = json.loads(truth)
        inputs, outputs = (_listed(loaded[key]) for key in ("inputs", "outputs"))
    except (ValueError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise LeftOut("tests that cannot be read") from error
    if not inputs or len(inputs) != len(outputs):
        raise LeftOut("as many inputs as outputs are needed, and at least one")
    return inputs, outputs, str(loaded.get("fn_name") or "")


def _listed(value: Any) -> list[Any]:
    """A list, or the source of one; literals only, nothing is evaluated."""
    value = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _lines(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(map(str, value)) if isinstance(value, list) else str(value)
