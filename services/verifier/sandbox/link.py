"""The tests' side of the conversation: what a program may have of its tests, and how it ends."""

from __future__ import annotations

from typing import Any, NoReturn

from rgopd.verifier.sandbox import databases, library, plain, world
from rgopd.verifier.sandbox.candidate import CHANNEL
from rgopd.verifier.sandbox.describe import SPECIALS
from rgopd.verifier.sandbox.judging import Judging
from rgopd.verifier.sandbox.peer import Gone, Guard, Peer

_MOST_REQUESTS = 200_000
_CALLABLES = frozenset(("function", "builtin_function_or_method", "method", "partial"))
_ITERATORS = frozenset(
    ("generator", "list_iterator", "tuple_iterator", "range_iterator", "str_iterator", "map", "filter", "zip")
    + ("enumerate", "dict_keyiterator", "set_iterator", "callable_iterator", "count", "cycle", "repeat", "chain")
)
_ADVANCING = ("__iter__", "__next__", "__length_hint__")
_SAID = ("__name__", "__doc__", "__qualname__", "__module__", "__dict__", "__annotations__")  # what wraps() copies
_NEVER = ("eval", "exec", "compile", "__import__", "open", "getattr", "setattr", "delattr", "globals", "locals", "vars")
_QUIET = {"StopIteration", "CancelledError"}
_STEPS = ("__next__", "__anext__", "send", "throw", "close", "asend", "athrow")  # where those are no surprise
_SHADOWED = ("input", "print", "open")
_LENT = {
    "asyncio.queues": "Queue LifoQueue PriorityQueue",
    "asyncio.locks": "Lock Event Condition Semaphore BoundedSemaphore",
    "queue": "Queue LifoQueue PriorityQueue",
    "_queue": "SimpleQueue",
    "threading": "Event Condition Semaphore BoundedSemaphore Barrier",
    "_thread": "lock RLock",
    "random": "Random",
    "_random": "Random",
    "xml.etree.ElementTree": "Element",
    "_csv": "reader writer",
    "csv": "DictReader DictWriter",
    "argparse": "Namespace",
    "string": "Template",
    "tempfile": "_TemporaryFileWrapper",
    "sqlite3": "Connection Cursor Row",
    "numpy.random._generator": "Generator",
    "numpy.random.mtrand": "RandomState",
}
"""Objects of the library that a program may use: nothing that they have leads to the tests' names."""


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
        self.came: BaseException | None = None
        self.quiet: set[str] = set()
        self.names: dict[str, Any] = {}
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
            self.lose(f"the program raised {exception_text(error)}")

    def replaced(self) -> dict[str, Any]:
        """What the tests have put in the place of these, as far as a program may hold it."""
        found = dict(world.replaced()) if library.REPLACED else {}
        for name in _SHADOWED:  # a test file's own input()
            if name in self.names and self.peer.mirrors.home(self.names[name]) is None:
                found[f"builtins:{name}"] = self.names[name]
        return found

    def lose(self, reason: str) -> NoReturn:
        """The program has had its chance."""
        self.gone = self.gone or reason
        raise Gone(reason)

    def asking(self, count: int) -> None:
        """A program must not keep its tests busy for ever."""
        if count > _MOST_REQUESTS:
            self.lose(f"the tests asked the program more than {_MOST_REQUESTS} times")

    def raised(self, error: BaseException, operation: str, name: str) -> None:
        """Kept, in case it was the setup that called the program; and where it would end a test without a failure."""
        self.came = error
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if any(kind.__module__.partition(".")[0] == "unittest" for kind in type(error).__mro__):
            self.lose(f"the program raised {exception_text(error)}")  # a test is not skipped by what it tests
        if operation != "cancel" and name not in _STEPS:
            self.quiet |= _QUIET & kinds
        if not isinstance(error, StopIteration):
            self.broke = self.broke or exception_text(error)

    def ended_quietly(self, test: str) -> str:
        """The exception of the program's that ended a loop, or a task, of a test which does not speak of it; '' for
        none: `all(map(f, ...))` is true of a function that raises StopIteration."""
        quiet, self.quiet = self.quiet, set()
        return next((f"the program raised {name}" for name in sorted(quiet) if name not in test), "")

    def exportable(self, value: Any) -> None:
        """Functions to call, iterators to advance, files in memory, and instances of classes that the tests define."""
        allowed = (self._is_callable, self._is_iterator, self._is_file, self._is_own, self._is_lent, self._is_awaited)
        if type(value) is not object and not isinstance(value, type) and not any(may(value) for may in allowed):
            raise plain.NotPlain(f"the test passes a {type(value).__name__}, which has no plain form")
        if databases.is_of_one(value):
            databases.fence(value)

    def set(self, on: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        (databases.set_row_factory(on, value) if databases.is_of_one(on) else setattr(on, name, value))

    def serving(self, operation: str, on: Any, name: str) -> None:
        """What a program may ask of those. Nothing that leads to a frame, a namespace, or an expected value."""
        if databases.is_of_one(on) and operation in ("get", "set", "del", "method"):
            if name in databases.NAMES if operation == "get" else (operation, name) == ("set", "row_factory"):
                return
            raise plain.NotPlain(f"a program may not ask for {name} of a database of the tests")
        if operation == "call" and (self._is_callable(on) or self._is_own(on)):
            if type(on) is type(len) and on.__module__ == "builtins" and on.__name__ in _NEVER:
                raise plain.NotPlain(f"a program may not call {on.__name__} beside the tests")
            return
        of_iterators = name in ("__hash__", "__eq__") or (self._is_iterator(on) and name in _ADVANCING)
        if operation == "special" and name in SPECIALS and (self._is_own(on) or of_iterators or self._is_lent(on)):
            return
        if operation in ("isinstance", "issubclass") and self._is_own(on):
            return
        if operation in ("task", "run", "cancel") and self._is_awaited(on):
            return
        if operation == "method" and self._is_iterator(on) and name in ("send", "throw", "close"):
            return
        public = not name.startswith("_") or name in _SAID
        if (
            operation == "get"
            and public
            and (self._is_file(on) or self._is_own(on) or self._is_lent(on) or name in _SAID)
        ):
            return
        if operation in ("set", "del") and public and self._is_own(on) and not isinstance(on, type):
            return
        raise plain.NotPlain(f"a program may not ask for {operation} {name} of a {type(on).__name__}"[:200])

    def other(self, operation: str, on: Any, name: str, value: Any) -> Any:
        """Coroutines of the tests that the program awaits: in the tests' loop where that goes on while the program
        waits, else each runs to its end in a thread."""
        if operation == "task":
            return self._task(on)
        if operation == "run" and type(on) is not Pending:
            return (True, on.result()) if on.done() else (False, None)
        if operation == "cancel" and type(on) is not Pending:
            on.cancel()
        return (True, on.result()) if operation == "run" else None

    def _task(self, coroutine: Any) -> Any:
        import asyncio

        if self.peer.asking[-1:] == ["run"]:  # that comes back here when it has nothing to do
            try:
                return asyncio.get_running_loop().create_task(coroutine)
            except RuntimeError:
                pass
        return Pending(coroutine, self.peer.lock)

    @staticmethod
    def _is_callable(value: Any) -> bool:
        return type(value).__name__ in _CALLABLES

    @staticmethod
    def _is_awaited(value: Any) -> bool:
        return type(value).__name__ in ("coroutine", "Task") or type(value) is Pending

    @staticmethod
    def _is_iterator(value: Any) -> bool:
        return type(value).__name__ in _ITERATORS

    @staticmethod
    def _is_file(value: Any) -> bool:
        return type(value).__module__ == "_io"

    @staticmethod
    def _is_lent(value: Any) -> bool:
        kind = type(value)
        return kind.__module__ == "_io" or kind.__name__ in _LENT.get(kind.__module__, "").split()

    @staticmethod
    def _is_own(value: Any) -> bool:
        kind = value if isinstance(value, type) else type(value)
        return kind.__module__ in ("checker", "unittest.mock")


def exception_text(error: BaseException) -> str:
    """A test's reason: the exception's class and what it says, bounded."""
    try:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    except Exception:  # noqa: BLE001 - foreign code raises anything
        text = ""
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
