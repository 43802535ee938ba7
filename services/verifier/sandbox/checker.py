"""The process that runs the dataset's test code against a candidate in another process.

It holds the expected values; the candidate's names are stand-ins that ask over a socket and get plain data back.
The outcome goes out on RESULT, which the candidate does not hold. Test code is executed as it is, so everything
an assert can say works: loops, tolerances, helpers, expected exceptions, arguments changed in place.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from rgopd.verifier.sandbox import unpickling, world
from rgopd.verifier.sandbox.candidate import PAYLOAD, new_module, read_all
from rgopd.verifier.sandbox.classes import type_of
from rgopd.verifier.sandbox.lifetimes import follow
from rgopd.verifier.sandbox.link import Link, exception_text
from rgopd.verifier.sandbox.peer import Gone
from rgopd.verifier.sandbox.threads import Numbers

RESULT = 5
_RUNNER = "rgopd.verifier.testfiles.run"


class Program(ModuleType):
    """The program as a module: what is set there is set in the program."""

    def __init__(self, name: str, names: Names) -> None:
        super().__init__(name)
        self.__dict__.update(__file__=f"{name}.py", _rgopd_names=names)

    def __getattr__(self, name: str) -> Any:
        names: Names = self.__dict__["_rgopd_names"]
        if self.__name__ == "__main__" and name in names:
            return names[name]
        return names.imported(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._tell("set_global", name, value)

    def __delattr__(self, name: str) -> None:
        self._tell("del_global", name, None)

    def _tell(self, operation: str, name: str, value: Any) -> None:
        names: Names = self.__dict__["_rgopd_names"]
        mirrors = names.link.peer.mirrors
        mine = self.__name__ == "__main__" and name in names and mirrors.home(names[name]) is None
        if mine and operation == "set_global":
            names[name] = value
        elif mine:
            del names[name]
        else:
            names.pop(name, None)
            mirrors.ask(operation, None, name=name, value=value)


class Names(dict[str, Any]):
    """The namespace of the tests. What they do not define they ask the program for, each time but for functions and
    classes: the program may change what its other names mean."""

    def __init__(self, link: Link, own: dict[str, Any]) -> None:
        super().__init__(own)
        self.link = link
        self.wanted: set[str] = set()
        self.entry_point = ""
        self.entry_points: set[str] = set()

    def __missing__(self, name: str) -> Any:
        if name not in self.wanted:
            raise KeyError(name)
        return self.of_program(name)

    def imported(self, name: str) -> Any:
        """The same for an import. Raises AttributeError."""
        try:
            if not name.startswith("__"):
                return self.of_program(name)
        except NameError:
            pass
        raise AttributeError(name)

    def of_program(self, name: str) -> Any:
        """What the program calls by that name. Raises NameError where it calls nothing so."""
        mirrors = self.link.peer.mirrors
        value = mirrors.ask("name", None, name=self.entry_point if name == "__entry_point__" else name)
        if mirrors.home(value) is not None:
            if name not in self.entry_points and name[:1].isupper() and name != "Solution":
                self.link.judging.name(value)
            self[name] = value
        return value


def run(payload: dict[str, Any], link: Link) -> Iterator[dict[str, Any]]:
    """Yield an outcome per test: {"ok": bool, "reason": text}; {"broken": text} when the test code itself is."""
    namespace = link.names = Names(link, new_module("checker"))
    if "source" in payload["aspects"]:
        import linecache

        linecache.cache["solution.py"] = (lambda: link.peer.mirrors.ask("source", None),)
    namespace["_rgopd_type"] = type_of
    sys.modules["checker"].__dict__.update(namespace)
    try:
        for source in payload["preludes"]:
            exec(compile(source, "prelude.py", "exec", dont_inherit=True), namespace)
        for name in payload["remote"]:
            namespace.pop(name, None)  # the prelude has its beginning only
        namespace.wanted = {*payload["names"], *payload["remote"], "__entry_point__"}
        namespace.entry_point = payload["entry_point"]
        sys.modules["solution"] = Program("solution", namespace)  # some tests import what they test
        sys.modules["__main__"] = Program("__main__", namespace)
        namespace.entry_points = set(payload["remote"])
        link.start()
        exec(compile(payload["setup"], "setup.py", "exec", dont_inherit=True), namespace)
        shared = {name: namespace.get(name) for name in payload["shared"]}
        link.peer.crossing.by_value = {name: kind for name, kind in shared.items() if isinstance(kind, type)}
    except Gone:
        for _ in payload["tests"]:
            yield {"ok": False, "reason": link.gone}
        return
    except Exception as error:  # noqa: BLE001 - foreign code raises anything
        if link.broke:  # the setup calls the program
            for _ in payload["tests"]:
                yield {"ok": False, "reason": f"the program raised {link.broke}"}
            return
        yield {"broken": f"{type(error).__name__}: {error}"[:500]}
        return
    for index, test in enumerate(payload["tests"]):
        yield _run_test(test, index, namespace, link)
        if link.gone:  # whoever wants the rest starts the program again
            return


def install(sources: dict[str, str]) -> None:
    """Modules that test files need and no import finds here (`rgopd.verifier.testfiles`); the first is `pytest`."""
    for name, source in sources.items():
        module = sys.modules[name] = ModuleType(name)
        sys.modules.setdefault("pytest", module)
        package, _, last = name.rpartition(".")
        setattr(sys.modules.setdefault(package, ModuleType(package)), last, module)
        exec(compile(source, f"{last}.py", "exec", dont_inherit=True), module.__dict__)


def _run_test(test: str, index: int, namespace: dict[str, Any], link: Link) -> dict[str, Any]:
    try:
        code = compile(test, f"test {index + 1}", "exec", dont_inherit=True)
    except SyntaxError as error:
        return {"broken": f"test {index + 1}: {error}"[:500]}
    before = dict(namespace)
    link.ended_quietly("")
    try:
        _execute(code, namespace, link)
        made = [value for name, value in namespace.items() if before.get(name) is not value]
        if (runner := sys.modules.get(_RUNNER)) is not None:
            runner.run(namespace, made, test)
        else:
            _run_functions(made, test)
        _run_cases(made)
        reason = link.ended_quietly(test)
    except Gone:
        reason = link.gone
    except AssertionError as error:
        reason = f"assertion failed: {error}"[:500] if str(error) else "assertion failed"
    except BaseException as error:  # noqa: BLE001 - foreign code raises anything
        if (runner := sys.modules.get(_RUNNER)) is not None and isinstance(error, runner.NO_VERDICT):
            return {"broken": f"test {index + 1}: {error}"[:500]}
        reason = exception_text(error)
    if link.gone:  # even where the test swallowed it
        reason = link.gone
    return {"ok": not reason, "reason": reason}


def _execute(code: Any, namespace: dict[str, Any], link: Link) -> None:
    """A test file may end with its runner, which ends the process; what it defines is run afterwards."""
    if "unittest" in code.co_names and "main" in code.co_names:
        import unittest

        unittest.main = lambda *_, **__: None  # type: ignore[assignment]
    try:
        exec(code, namespace)
    except SystemExit as stop:
        if stop.code or stop is link.came:
            raise


def _run_functions(made: list[Any], test: str) -> None:
    """The `test_...` functions that a test file only defines for a runner to find."""
    for value in made:
        name = getattr(value, "__name__", "")
        if type(value).__name__ != "function" or not name.startswith("test") or value.__code__.co_argcount:
            continue
        if f"\n{name}(" not in test:  # which calls it itself
            outcome = value()
            if hasattr(outcome, "send") and hasattr(outcome, "cr_frame"):
                import asyncio

                asyncio.run(outcome)


def _run_cases(made: list[Any]) -> None:
    """Its cases of unittest."""
    for value in made:
        if isinstance(value, type) and any(base.__name__ == "TestCase" for base in value.__mro__[1:]):
            _run_case(value)


def _run_case(case: Any) -> None:
    import unittest

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    if result.errors or result.failures:
        of, trace = (result.failures + result.errors)[0]
        raise AssertionError(f"{of}: {trace.strip().splitlines()[-1]}")
    if not result.testsRun:
        raise AssertionError(f"{case.__name__} has no tests")


def main() -> int:
    """Run the tests of the payload; one JSON line a test on RESULT."""
    payload = json.loads(read_all(PAYLOAD))
    os.close(PAYLOAD)  # a test may open what the program names
    key, result = payload.pop("key"), _out_of_reach(RESULT)
    sys.setrecursionlimit(10_000)
    sys.argv = ["solution.py"]
    link = Link(payload["value_bytes"])
    link.peer.world = world.World(payload["aspects"], of_tests=True)
    if "threads" in payload["aspects"]:
        link.peer.threads = Numbers()
    if "lifetimes" in payload["aspects"]:
        follow(link.peer.mirrors)
    if "pickle" in payload["aspects"]:
        unpickling.restrict()
    install(payload.get("install", {}))
    world.watch(["builtins", "sys", *payload["modules"]])
    for outcome in run(payload, link):
        _write(result, outcome, key)
        if payload["stop_early"] and not outcome.get("ok"):
            return 0
    _write(result, {"end": True}, key)
    return 0


def _out_of_reach(fd: int) -> int:
    """Under a number that nobody can name: a test may open, and close, a number that the program gives for a path."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16 + os.urandom(1)[0] % 40)
    os.close(fd)
    return moved


def _write(result: int, outcome: dict[str, Any], key: str) -> None:
    """With what shows that it is of this process, wherever else the tests may have written."""
    os.write(result, json.dumps(outcome | {"key": key}).encode() + b"\n")
