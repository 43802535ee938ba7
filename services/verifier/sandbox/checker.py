"""The process that runs the dataset's test code against a candidate in another process.

It holds the expected values; the candidate's names are stand-ins that ask over a socket and get plain data back.
The outcome goes out on RESULT, which the candidate does not hold. Test code is executed as it is, so everything
an assert can say works: loops, tolerances, helpers, expected exceptions, arguments changed in place.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.candidate import CHANNEL, PAYLOAD, new_module, read_all
from rgopd.verifier.sandbox.describe import SPECIALS
from rgopd.verifier.sandbox.judging import Judging
from rgopd.verifier.sandbox.peer import Gone, Guard, Peer

RESULT = 5
_MOST_REQUESTS = 200_000
_CALLABLES = frozenset(("function", "builtin_function_or_method", "method", "partial"))
_ITERATORS = frozenset(
    ("generator", "list_iterator", "tuple_iterator", "range_iterator", "str_iterator", "map", "filter", "zip")
    + ("enumerate", "dict_keyiterator", "set_iterator", "callable_iterator", "count", "cycle", "repeat", "chain")
)
_ADVANCING = ("__iter__", "__next__", "__length_hint__")
_SAID = ("__name__", "__doc__", "__qualname__", "__module__", "__dict__", "__annotations__")  # what wraps() copies
_USUAL = {(owner, name): getattr(owner, name) for owner, name in ((builtins, "input"), (builtins, "print"))}
_FILES = frozenset(("StringIO", "BytesIO"))


class Pending:
    """A coroutine of the tests that the program awaits."""

    def __init__(self, coroutine: Any, lock: Any) -> None:
        self._coroutine = coroutine
        self._lock = lock

    def result(self) -> Any:
        """Run it. Raises what it raises."""
        import asyncio
        import threading

        ended: list[Any] = []

        def run() -> None:
            try:
                ended.append((True, asyncio.run(self._coroutine)))
            except BaseException as error:  # noqa: BLE001 - handed on
                ended.append((False, error))

        thread = threading.Thread(target=run)
        held = self._lock._release_save()  # it may ask the program, too
        try:
            thread.start()
            thread.join()
        finally:
            self._lock._acquire_restore(held)
        ((good, value),) = ended
        if not good:
            raise value
        return value


class Link(Guard):
    """The tests' side of the conversation: what the program may have of them, and how it ends."""

    def __init__(self, limit: int) -> None:
        self.gone = ""
        self.broke = ""
        judging = Judging()
        self.peer = Peer(CHANNEL, -1, limit, self.lose, judging, self)
        judging.mirrors = self.peer.mirrors
        self.judging = judging

    def start(self) -> None:
        """Wait until the program is loaded."""
        message = self.peer.receive()
        if "e" in message:
            try:
                with self.peer.crossing.reading():
                    self.peer.crossing.absorb(message)
                    error = self.peer.crossing.decode(message["e"])
            except plain.NotPlain as problem:
                error = problem
            self.lose(f"the program raised {_exception_text(error)}")

    def replaced(self) -> dict[str, Any]:
        """What the tests have put in the place of these, as far as a program may hold it."""
        found = {
            name: getattr(owner, name) for (owner, name), usual in _USUAL.items() if getattr(owner, name) is not usual
        }
        return {name: thing for name, thing in found.items() if self._is_file(thing) or self._is_called(thing)}

    def _is_called(self, thing: Any) -> bool:
        return self._is_callable(thing) or self._is_own(thing)

    def lose(self, reason: str) -> NoReturn:
        """The program has had its chance."""
        self.gone = self.gone or reason
        raise Gone(reason)

    def asking(self, count: int) -> None:
        """A program must not keep its tests busy for ever."""
        if count > _MOST_REQUESTS:
            self.lose(f"the tests asked the program more than {_MOST_REQUESTS} times")

    def raised(self, error: BaseException) -> None:
        """Kept, in case it was the setup that called the program."""
        if not isinstance(error, StopIteration):
            self.broke = self.broke or _exception_text(error)

    def exportable(self, value: Any) -> None:
        """Functions to call, iterators to advance, files in memory, and instances of classes that the tests define."""
        allowed = (self._is_callable, self._is_iterator, self._is_file, self._is_own, self._is_awaited)
        if not isinstance(value, type) and not any(is_allowed(value) for is_allowed in allowed):
            raise plain.NotPlain(f"the test passes a {type(value).__name__}, which has no plain form")

    def serving(self, operation: str, on: Any, name: str) -> None:
        """What a program may ask of those. Nothing that leads to a frame, a namespace, or an expected value."""
        if operation == "call" and (self._is_callable(on) or self._is_own(on)):
            return
        of_iterators = name == "__hash__" or (self._is_iterator(on) and name in _ADVANCING)
        if operation == "special" and name in SPECIALS and (self._is_own(on) or of_iterators):
            return
        if operation in ("task", "run", "cancel") and self._is_awaited(on):
            return
        if operation == "method" and self._is_iterator(on) and name in ("send", "throw", "close"):
            return
        public = not name.startswith("_") or name in _SAID
        if operation == "get" and public and (self._is_file(on) or self._is_own(on) or name in _SAID):
            return
        if operation in ("set", "del") and public and self._is_own(on) and not isinstance(on, type):
            return
        raise plain.NotPlain(f"a program may not ask for {operation} {name} of a {type(on).__name__}"[:200])

    def other(self, operation: str, on: Any, name: str, value: Any) -> Any:
        """Coroutines of the tests that the program awaits: each runs to its end, in a thread beside their loop."""
        if operation == "task":
            return Pending(on, self.peer.lock)
        if operation == "run":
            return True, on.result()
        return None

    @staticmethod
    def _is_callable(value: Any) -> bool:
        return type(value).__name__ in _CALLABLES

    @staticmethod
    def _is_awaited(value: Any) -> bool:
        return type(value).__name__ == "coroutine" or type(value) is Pending

    @staticmethod
    def _is_iterator(value: Any) -> bool:
        return type(value).__name__ in _ITERATORS

    @staticmethod
    def _is_file(value: Any) -> bool:
        return type(value).__module__ == "_io" and type(value).__name__ in _FILES

    @staticmethod
    def _is_own(value: Any) -> bool:
        kind = value if isinstance(value, type) else type(value)
        return kind.__module__ in ("checker", "unittest.mock")


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


def _exception_text(error: BaseException) -> str:
    try:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    except Exception:  # noqa: BLE001 - foreign code raises anything
        text = ""
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def run(payload: dict[str, Any], link: Link) -> Iterator[dict[str, Any]]:
    """Yield an outcome per test: {"ok": bool, "reason": text}; {"broken": text} when the test code itself is."""
    namespace = Names(link, new_module("checker"))
    sys.modules["checker"].__dict__.update(namespace)
    try:
        for source in payload["preludes"]:
            exec(compile(source, "prelude.py", "exec", dont_inherit=True), namespace)
        for name in payload["remote"]:
            namespace.pop(name, None)  # the prelude has its beginning only
        namespace.wanted = {*payload["names"], *payload["remote"], "__entry_point__"}
        namespace.entry_point = payload["entry_point"]
        program = ModuleType("solution")  # some tests import what they test
        program.__dict__["__getattr__"] = namespace.imported
        sys.modules["solution"] = program
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


def _run_test(test: str, index: int, namespace: dict[str, Any], link: Link) -> dict[str, Any]:
    try:
        code = compile(test, f"test {index + 1}", "exec", dont_inherit=True)
    except SyntaxError as error:
        return {"broken": f"test {index + 1}: {error}"[:500]}
    reason, before = "", dict(namespace)
    try:
        exec(code, namespace)
        _run_defined([value for name, value in namespace.items() if before.get(name) is not value], test)
    except Gone:
        pass
    except AssertionError as error:
        reason = f"assertion failed: {error}"[:500] if str(error) else "assertion failed"
    except BaseException as error:  # noqa: BLE001 - foreign code raises anything
        reason = _exception_text(error)
    if link.gone:  # even where the test swallowed it
        reason = link.gone
    return {"ok": not reason, "reason": reason}


def _run_defined(made: list[Any], test: str) -> None:
    """What a test file only defines for a runner to find: `test_...` functions and unittest's cases."""
    for value in made:
        name = getattr(value, "__name__", "")
        if type(value).__name__ == "function" and name.startswith("test") and not value.__code__.co_argcount:
            if f"\n{name}(" not in test:  # which calls it itself
                outcome = value()
                if hasattr(outcome, "send") and hasattr(outcome, "cr_frame"):
                    import asyncio

                    asyncio.run(outcome)
        elif isinstance(value, type) and any(base.__name__ == "TestCase" for base in value.__mro__[1:]):
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
    _USUAL.update({(sys, name): getattr(sys, name) for name in ("stdin", "stdout", "stderr")})
    payload = json.loads(read_all(PAYLOAD))
    sys.setrecursionlimit(10_000)
    link = Link(payload["value_bytes"])
    for outcome in run(payload, link):
        line = json.dumps(outcome).encode() + b"\n"
        os.write(RESULT, line)
        if payload["stop_early"] and not outcome.get("ok"):
            return 0
    os.write(RESULT, b'{"end":true}\n')
    return 0
