"""The process that runs the code under test. Nothing here is trusted by those who judge.

It is told inputs and reports outputs as plain data; what outputs are expected it never learns.
Descriptors: 0-2 standard, PAYLOAD the program (JSON), CHANNEL requests and answers (JSON lines).
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from rgopd.verifier.sandbox import names, plain, world
from rgopd.verifier.sandbox.awaiting import Awaiting
from rgopd.verifier.sandbox.peer import Guard, Peer
from rgopd.verifier.sandbox.threads import ThreadedPeer

PAYLOAD, CHANNEL = 3, 4
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for every message


def read_all(fd: int) -> bytes:
    """Everything in a memfd."""
    size = os.fstat(fd).st_size
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def reopen_standard_streams() -> None:
    """sys.stdin and friends over descriptors 0-2, as a fresh interpreter makes them."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
        errors = "strict" if fd == 1 else "backslashreplace"
        setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=fd == 2))
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def new_module(name: str) -> dict[str, Any]:
    """An empty module registered in sys.modules (pickling and dataclasses look it up); its namespace."""
    module = ModuleType(name)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules[name] = module
    return module.__dict__


def run_main(payload: dict[str, Any]) -> int:
    """Run as a script: `__main__`, SystemExit codes, traceback on stderr, threads joined, atexit run. Exit code."""
    import atexit

    sys.argv = ["main.py", *payload.get("argv", [])]
    code = 0
    namespace = new_module("__main__")
    namespace["__file__"] = "main.py"
    try:
        exec(compile(payload["program"], "main.py", "exec", dont_inherit=True), namespace)
    except SystemExit as stop:
        code = _exit_code(stop.code)
    except BaseException:  # noqa: BLE001 - foreign code raises anything
        import traceback

        traceback.print_exc()
        code = 1
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # what the interpreter does at its end
        atexit._run_exitfuncs()
        _flush()
        namespace.clear()  # files that the program left open are flushed as they are freed: an interpreter's end
        gc.collect()
        _flush()
    except BaseException:  # noqa: BLE001 - foreign code raises anything
        code = code or 120  # as CPython answers when flushing fails
    return code


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()


def _exit_code(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    sys.stderr.write(f"{value}\n")
    return 1


class Calls:
    """Makes the calls of a payload and writes what comes of each, one JSON line each.

    A call: {"f": name, "a": [args], "k": {kwargs}}. What is written: {"a": number, "v": value} or
    {"a": number, "e": [exception name, text]}.
    """

    def __init__(self, namespace: dict[str, Any], limit: int) -> None:
        self.namespace = namespace
        self.limit = limit

    def answer(self, number: int, call: dict[str, Any]) -> dict[str, Any]:
        """Make one call."""
        try:
            args = [plain.decode(a) for a in call.get("a", [])]
            kwargs = {k: plain.decode(v) for k, v in call.get("k", {}).items()}
            function = names.lookup(self.namespace, call["f"])
            args, kwargs, is_node = names.converted(function, args, kwargs)
            value = function(*args, **kwargs)
            return {"a": number, "v": plain.encode(names.listed(value) if is_node else value, _opaque)}
        except Exception as error:  # noqa: BLE001 - foreign code raises anything
            return {"a": number, "e": [type(error).__name__, _text(error)]}

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        line = _ENCODE(message).encode() + b"\n"
        if len(line) > self.limit:
            said = {"a": message.get("a", 0), "e": ["ValueError", "the value is over the size limit"]}
            line = _ENCODE(said).encode() + b"\n"
        view = memoryview(line)
        while view:
            view = view[os.write(CHANNEL, view) :]


def _opaque(value: Any) -> dict[str, Any]:
    """A value without a plain form: its class is said, and nobody takes it for anything."""
    return {"h": 0, "n": type(value).__name__}


def _text(error: BaseException) -> str:
    try:
        if type(error) is KeyError and len(error.args) == 1 and type(error.args[0]) is str:
            return error.args[0][:500]  # its str() is the repr
        return str(error)[:500]
    except Exception:  # noqa: BLE001 - foreign code raises anything
        return ""


class Serving(Guard):
    """Lets the tests have everything of the program, and look up its names."""

    def __init__(self, namespace: dict[str, Any], source: str) -> None:
        self.namespace = namespace
        self.source = source
        self.first: dict[tuple[type, str], Any] = {}
        self.awaiting = Awaiting()

    @contextmanager
    def within(self, replaced: dict[str, Any]) -> Iterator[None]:
        """Tests that capture what is printed, say what is read, or patch a module, replace these."""
        with world.in_place(replaced):
            yield

    def set(self, on: Any, name: str, value: Any) -> None:
        """Set an attribute; a function of the tests becomes a method where a class gets it."""
        if isinstance(on, type):
            self.first.setdefault((on, name), vars(on).get(name))
            if value.__class__ is FunctionType is not type(value):
                value = names.bound(value)
        setattr(on, name, value)

    def other(self, operation: str, on: Any, name: str, value: Any) -> Any:
        """Names, classes that the tests derive from the program's, and coroutines that they await."""
        if operation == "derive":
            return names.derived(name, on, *value)
        if operation == "name":
            return names.lookup(self.namespace, name)
        if operation in _ON_PROGRAM:
            return getattr(self, f"_{operation}")(on, name, value)
        steps = {"task": self.awaiting.start, "run": self.awaiting.run, "cancel": self.awaiting.cancel}
        return steps[operation](on)

    def _restore(self, on: Any, name: str, value: Any) -> None:
        """What a class had before a patch."""
        first = self.first.get((on, name))
        if first is not None:
            setattr(on, name, first)
        elif name in vars(on):
            delattr(on, name)

    def _set_global(self, on: Any, name: str, value: Any) -> None:
        self.namespace[name] = value

    def _del_global(self, on: Any, name: str, value: Any) -> None:
        del self.namespace[name]

    def _pickle(self, on: Any, name: str, value: Any) -> bytes:
        import pickle

        return pickle.dumps(on)

    def _unpickle(self, on: Any, name: str, value: Any) -> Any:
        import pickle

        return pickle.loads(value)

    def _parts(self, on: Any, name: str, value: Any) -> Any:
        return names.parts_of(on)

    def _fields(self, on: Any, name: str, value: Any) -> Any:
        return names.fields_of(on)

    def _set_part(self, on: Any, name: str, value: Any) -> None:
        self.first.setdefault((on, name), vars(on).get(name))
        setattr(on, name, names.made_part(*value))

    def _weakref(self, on: Any, name: str, value: Any) -> Any:
        import weakref

        return weakref.ref(on, value)

    def _collect(self, on: Any, name: str, value: Any) -> None:
        gc.collect()

    def _source(self, on: Any, name: str, value: Any) -> str:
        return self.source


_ON_PROGRAM = frozenset(
    (
        "parts",
        "fields",
        "set_part",
        "weakref",
        "collect",
        "restore",
        "set_global",
        "del_global",
        "pickle",
        "unpickle",
        "source",
    )
)


def load(payload: dict[str, Any]) -> dict[str, Any]:
    """Execute the program; its namespace. Raises what the program raises."""
    sys.argv = ["solution.py"]
    namespace = new_module("solution")
    namespace["__file__"] = "solution.py"
    if "inspect" in payload["program"]:  # which reads a function's source
        import linecache

        linecache.cache["solution.py"] = (lambda: payload["program"],)
    if payload.get("setup"):
        exec(compile(payload["setup"], "setup.py", "exec", dont_inherit=True), namespace)
    code = compile(payload["program"], "solution.py", "exec", dont_inherit=True)
    names.provide(code, payload["program"], namespace)
    exec(code, namespace)
    return namespace


def run_calls(payload: dict[str, Any]) -> int:
    """Load, then either make the calls of the payload or serve the channel until it ends."""
    if "calls" not in payload:
        return _serve(payload)
    try:
        calls = Calls(load(payload), payload["value_bytes"])
    except SystemExit:
        return 1
    except BaseException as error:  # noqa: BLE001 - foreign code raises anything
        Calls({}, 1 << 16).send({"a": 0, "e": [type(error).__name__, _text(error)]})
        return 1
    calls.send({"a": 0, "v": None})
    for number, call in enumerate(payload["calls"], 1):
        calls.send(calls.answer(number, call))
    return 0


def _serve(payload: dict[str, Any]) -> int:
    """Answer the checker."""
    serving = Serving({}, payload["program"])
    kind = ThreadedPeer if "threads" in payload.get("aspects", []) else Peer
    peer = kind(CHANNEL, 1, payload["value_bytes"], _end, None, serving)
    peer.world = world.World(payload.get("aspects", []), of_tests=False)
    peer.mirrors.pause = serving.awaiting.pause
    try:
        serving.namespace = namespace = load(payload)
    except SystemExit:
        return 1
    except BaseException as error:  # noqa: BLE001 - foreign code raises anything
        peer.send(peer.crossing.envelope({"e": peer.exception(error)}))
        return 1
    shared = {name: namespace.get(name) for name in payload.get("shared", ())}
    peer.crossing.by_value = {name: kind for name, kind in shared.items() if isinstance(kind, type)}
    peer.send({"v": None})
    if isinstance(peer, ThreadedPeer):
        peer.run()
    while True:
        peer.serve(peer.receive())


def _end(reason: str) -> NoReturn:
    """The checker has what it wanted."""
    os._exit(0)
