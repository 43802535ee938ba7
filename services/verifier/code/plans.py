"""What to run for a list of asserts: plain calls compared outside where every assert allows it, else a checker."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rgopd.common.errors import InvalidInput
from rgopd.verifier.sandbox import plain

TYPE = "_rgopd_type"
_BUILTINS = frozenset(dir(builtins))
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What ast.parse raises; MemoryError is its word for too many nested brackets or signs."""


def free_names(sources: Sequence[str]) -> set[str]:
    """Names that the test code reads and does not bind at its top: those the candidate has to define."""
    read: set[str] = set()
    bound: set[str] = set()
    for source in filter(None, sources):
        table = symtable.symtable(source, "tests", "exec")
        read |= _reads(table)
        bound.update(symbol.get_name() for symbol in table.get_symbols() if _is_bound(symbol))
        imported = _imported_from_program(source)
        read |= imported
        bound -= imported
    return read - bound - _BUILTINS


@lru_cache(maxsize=1024)
def bound_names(source: str) -> frozenset[str]:
    """Names that a source binds at its top."""
    symbols = symtable.symtable(source, "tests", "exec").get_symbols()
    return frozenset(symbol.get_name() for symbol in symbols if _is_bound(symbol))


def _reads(table: symtable.SymbolTable) -> set[str]:
    """Global names that a scope and those in it read."""
    is_top = table.get_type() == "module"
    read = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (is_top or s.is_global())}
    return read.union(*map(_reads, table.get_children()))


def _is_bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()


def _imported_from_program(source: str) -> set[str]:
    """`from solution import f`, as test files of some data sets begin."""
    if "solution" not in source:
        return set()
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports if node.module == "solution" for alias in node.names}


@lru_cache(maxsize=4096)
def read_names(sources: tuple[str, ...]) -> frozenset[str]:
    """Every global name that test code reads, also those that it binds somewhere: `f = f(3)` reads first."""
    tables = [symtable.symtable(source, "tests", "exec") for source in sources if source]
    return frozenset(set[str]().union(*map(_reads, tables)) - _BUILTINS)


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
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, keep) or _makes_a_class(node))


@lru_cache(maxsize=4096)
def with_types(source: str) -> str:
    """Test code that asks for the type of something, by the checker's `type()`: of the program's classes it knows the
    metaclass. Any other code as it is."""
    if "type(" not in source:
        return source
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except UNPARSABLE:
        return source
    if any(isinstance(n, ast.Name) and n.id == "type" and not isinstance(n.ctx, ast.Load) for n in nodes):
        return source
    calls = [n.func for n in nodes if isinstance(n, ast.Call) and len(n.args) == 1 and isinstance(n.func, ast.Name)]
    lines = source.encode().split(b"\n")
    for name in sorted(calls, key=lambda n: (n.lineno, n.col_offset), reverse=True):
        line, at = lines[name.lineno - 1], name.col_offset
        if line[at : at + 5] == b"type(":
            lines[name.lineno - 1] = line[:at] + TYPE.encode() + line[at + 4 :]
    return b"\n".join(lines).decode()


_CLASS_MAKERS = frozenset(
    ("namedtuple", "NamedTuple", "TypedDict", "NewType", "TypeVar", "Enum", "IntEnum", "make_dataclass")
)


def _makes_a_class(node: ast.stmt) -> bool:
    """`Point = namedtuple("Point", "x y")` and its kin."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
        return False
    function = node.value.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in _CLASS_MAKERS


@lru_cache(maxsize=1024)
def classes_of(source: str) -> tuple[str, ...]:
    """Names of the classes that a source defines at its top."""
    try:
        body = ast.parse(source).body
    except UNPARSABLE:
        return ()
    made = [node for node in body if _makes_a_class(node)]
    named = [target.id for node in made for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]
    return (*(node.name for node in body if isinstance(node, ast.ClassDef)), *named)


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
