"""Python blocks taken apart: what each defines and needs, which of its statements only show how it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cached_property

from rgopd.verifier.code.missing import KNOWN
from rgopd.verifier.code.plans import UNPARSABLE, free_names

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SHOWING = frozenset({"print", "pprint", "display", "input", "main", "test", "tests", "demo", "example", "run_tests"})
_COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try)


class Piece:
    """One block. `tree` is None where it does not parse."""

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            self.tree: ast.Module | None = ast.parse(source)
        except UNPARSABLE:
            self.tree = None

    @cached_property
    def defines(self) -> frozenset[str]:
        """Names bound at top level, those of methods of a class Solution with them. A function whose body is ... does
        not count."""
        names: set[str] = set()
        for node in self.tree.body if self.tree is not None else ():
            if isinstance(node, _DEFINITIONS):
                if not _is_stub(node):
                    names.add(node.name)
                if isinstance(node, ast.ClassDef) and node.name == "Solution":
                    names |= {part.name for part in node.body if isinstance(part, _DEFINITIONS)}
            else:
                names |= _bound(node)
        return frozenset(names)

    @cached_property
    def needs(self) -> frozenset[str]:
        """Names that it reads and does not bind."""
        try:
            return frozenset(free_names((self.source,))) if self.tree is not None else frozenset()
        except UNPARSABLE:  # `return` outside of a function, which ast.parse lets pass
            return frozenset()

    @cached_property
    def calls(self) -> frozenset[str]:
        """Names of the functions called anywhere, attributes by their last part."""
        nodes = ast.walk(self.tree) if self.tree is not None else ()
        return frozenset(_called(node) for node in nodes if isinstance(node, ast.Call))

    @property
    def reads(self) -> bool:
        """Does it look at standard input?"""
        return (
            bool(self.calls & {"input", "readline", "readlines"}) or "stdin" in self.source or "open(0" in self.source
        )

    @property
    def prints(self) -> bool:
        """Does it print?"""
        return "print" in self.calls or "write" in self.calls

    def without(self, drop: Iterable[ast.stmt]) -> str:
        """The source without some of its top-level statements, unless they share a line with another."""
        assert self.tree is not None
        gone = set(map(id, drop))
        kept_lines = {n for node in self.tree.body if id(node) not in gone for n in lines_of(node)}
        lost = {n for node in self.tree.body if id(node) in gone for n in lines_of(node)} - kept_lines
        lines = self.source.splitlines(keepends=True)
        return "".join(line for number, line in enumerate(lines, 1) if number not in lost)

    def demos(self, wanted: frozenset[str]) -> list[ast.stmt]:
        """Top-level statements that show the wanted functions at work: prints, asserts, reading of input,
        `if __name__`, calls of the wanted names whose results nothing uses."""
        body = self.tree.body if self.tree is not None else []
        used = {
            n.id for node in body if isinstance(node, _DEFINITIONS) for n in ast.walk(node) if isinstance(n, ast.Name)
        }
        of_tests = "pytest" in self.source and not any("pytest" in name for name in wanted)
        return [n for n in body if _is_demo(n, wanted, used) or (of_tests and _is_of_tests(n, wanted | used))]

    def definitions(self) -> list[Definition]:
        """Top-level functions and classes that are more than a stub."""
        body = self.tree.body if self.tree is not None else []
        return [node for node in body if isinstance(node, _DEFINITIONS) and not _is_stub(node)]


def lines_of(node: ast.stmt) -> range:
    """The line numbers of a statement, its decorators with it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return range(first, (node.end_lineno or node.lineno) + 1)


def source_of(piece: Piece, node: ast.stmt) -> str:
    """A top-level statement's lines, decorators with them."""
    lines = piece.source.splitlines(keepends=True)
    span = lines_of(node)
    return "".join(lines[span.start - 1 : span.stop - 1])


def _is_stub(node: ast.stmt) -> bool:
    body = getattr(node, "body", [])
    return all(
        isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in body
    ) and any(isinstance(part, ast.Expr) and part.value.value is ... for part in body)  # type: ignore[attr-defined]


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] not in KNOWN):
        return set()  # a test's `from solution import f`
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {
        n.name for n in ast.walk(node) if isinstance(n, _DEFINITIONS)
    }


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _is_of_tests(node: ast.stmt, wanted: frozenset[str]) -> bool:
    """pytest's import, and what it would run or uses it: a program's own tests, which nobody runs here."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return _bound(node) == {"pytest"} or getattr(node, "module", "") == "pytest"
    if not isinstance(node, _DEFINITIONS) or node.name in wanted:
        return False
    speaks = any(isinstance(n, ast.Name) and n.id == "pytest" for n in ast.walk(node))
    return speaks or node.name.startswith(("test_", "Test"))


def _is_demo(node: ast.stmt, wanted: frozenset[str], used: set[str]) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test)):
        return True
    calls = (
        {_called(n) for n in ast.walk(node) if isinstance(n, ast.Call)} if not isinstance(node, _DEFINITIONS) else set()
    )
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and (_called(node.value) in _SHOWING or _called(node.value) in wanted)
    if isinstance(node, _COMPOUND):
        inner = any(isinstance(n, _DEFINITIONS) for n in ast.walk(node))
        return not inner and bool(calls & ({"print", "input"} | wanted))
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return "input" in calls or (bool(calls & wanted) and not _bound(node) & used)
    return False
