"""lm-eval's code tasks inside our sandbox: their `code_eval` metric is answered by the verifier.

lm-eval calls `evaluate.load("code_eval")` when it reads the YAML of MBPP or HumanEval, and that metric runs whatever
the model wrote as this user. Here the name leads to the verifier while tasks are loaded, so that `unsafe_code` can be
false and lm-eval's `confirm_run_unsafe_code` is never given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rgopd.common.errors import RgopdError
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Status

CPU_S = 3.0
"""code_eval's own default time limit of a program."""
ATTEMPTS = 3


class SandboxFailed(RgopdError):
    """The sandbox could not run a program, three times in a row."""

    kind = "sandbox_failed"


class CodeEval:
    """`compute` of `evaluate`'s code_eval: each reference is test code, each prediction a list of programs."""

    def __init__(self, engine: VerifierEngine) -> None:
        self.engine = engine

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: Any
    ) -> tuple[dict[str, float], dict[int, Any]]:
        """({"pass@1": share}, details). Only k = 1 with one program a problem: more would need the estimator."""
        if list(k) != [1] or any(len(programs) != 1 for programs in predictions):
            raise ValueError("only pass@1 of one program a problem is evaluated in the sandbox")
        passed = [self.passes(test, programs[0]) for test, programs in zip(references, predictions, strict=True)]
        return {"pass@1": sum(passed) / len(passed)}, {i: [(0, {"passed": p})] for i, p in enumerate(passed)}

    def passes(self, test: str, program: str) -> bool:
        """Does the program, byte for byte, run and pass? A test that is itself broken is passed by nothing."""
        # As a string that is executed, so that the verifier, which looks for programs in texts, neither finds one in it
        # nor leaves a part of it out.
        response = f"```python\nexec(compile({program!r}, '<program>', 'exec'), globals())\n```\n"
        fields = {"tests": statements(test), "limits": {"cpu_s": CPU_S}}
        for _ in range(ATTEMPTS):
            verdict = self.engine.check([Item("program", "code", response, fields)])[0]
            if verdict.status is not Status.error or "broken" in verdict.reason:
                return verdict.status is Status.passed
        raise SandboxFailed(f"a program could not be judged after {ATTEMPTS} tries: {verdict.reason}")


def statements(test: str) -> list[str]:
    """A list of asserts as one test each, since the verifier checks plain asserts from outside; else all as one."""
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [test]
    parts = [ast.get_source_segment(test, node) for node in tree.body]
    asserts = all(isinstance(node, ast.Assert) for node in tree.body)
    return [part for part in parts if part] if asserts and parts else [test]


@contextmanager
def code_eval_in_sandbox(metric: CodeEval) -> Iterator[None]:
    """While tasks are loaded, `evaluate.load("code_eval")` is `metric`; modules loaded before get it too."""
    import evaluate

    original = evaluate.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        return metric if path == "code_eval" else original(path, *args, **kwargs)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
    for name, module in list(sys.modules.items()):
        if name.startswith("lm_eval.tasks.") or "/" in name:  # lm-eval names modules beside own YAML by their path
            for attribute, value in list(vars(module).items()):
                if isinstance(value, CodeEval):
                    setattr(module, attribute, metric)
