"""What to run for a list of asserts: plain calls compared outside where every assert allows it, else a checker."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rgopd.common.errors import InvalidInput
from rgopd.verifier.sandbox import plain

_BUILTINS = frozenset(dir(builtins))
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What ast.parse raises; MemoryError is its word for too many nested brackets or signs."""


def free_names(sources: Sequence[str]) -> set[str]:
    """Names that the test code reads and does not bind: those the candidate has to define."""
    read: set[str] = set()
    bound: set[str] = set()
    for source in filter(None, sources):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.add(node.name)
    return read - bound - _BUILTINS


@dataclass(frozen=True)
class CallTest:
    """`assert name(*args, **kwargs) == expected`, taken apart. `expected` stays with the judge."""

    request: dict[str, Any]
    expected: Any
    identity: bool


@lru_cache(maxsize=4096)
def as_calls(tests: tuple[str, ...]) -> tuple[CallTest, ...] | None:
    """The asserts as calls, or None when one says more than a call and a literal."""
    calls = []
    for test in tests:
        call = _as_call(test)
        if call is None:
            return None
        calls.append(call)
    return tuple(calls)


@lru_cache(maxsize=4096)
def wanted_names(sources: tuple[str, ...]) -> frozenset[str]:
    """Names the program has to define for these tests.

    Raises:
        InvalidInput: a test is not Python.
    """
    try:
        return frozenset(free_names(sources))
    except UNPARSABLE as problem:
        raise InvalidInput(f"the tests are not valid Python: {problem}") from problem


@lru_cache(maxsize=1024)
def shared_part(setup: str) -> str:
    """The imports, classes and functions of a setup: what the program may use too. Everything else, and with it
    any value a test expects, stays with the checker."""
    if not setup:
        return ""
    keep = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(setup)
    except UNPARSABLE as problem:
        raise InvalidInput(f"setup is not valid Python: {problem}") from problem
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, keep))


def _as_call(test: str) -> CallTest | None:
    try:
        body = ast.parse(test.strip()).body
    except UNPARSABLE:
        return None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        return None
    condition = body[0].test
    if not isinstance(condition, ast.Compare) or len(condition.ops) != 1:
        return None
    operator = condition.ops[0]
    call, expected = condition.left, condition.comparators[0]
    if isinstance(expected, ast.Call) and isinstance(operator, ast.Eq):
        call, expected = expected, call
    identity = isinstance(operator, ast.Is)
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id not in _BUILTINS):
        return None
    if not identity and not isinstance(operator, ast.Eq):
        return None
    return _literal_call(call.func.id, call, expected, identity)


def _literal_call(name: str, call: ast.Call, expected: ast.expr, identity: bool) -> CallTest | None:
    try:
        value = ast.literal_eval(expected)
        args = [plain.encode(ast.literal_eval(a)) for a in call.args]
        if any(k.arg is None for k in call.keywords):
            return None
        kwargs = {str(k.arg): plain.encode(ast.literal_eval(k.value)) for k in call.keywords}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    if identity and not (value is None or isinstance(value, bool)):
        return None
    return CallTest({"f": name, "a": args, "k": kwargs}, value, identity)
