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
from types import ModuleType
from typing import Any

from rgopd.verifier.sandbox import plain

PAYLOAD, CHANNEL = 3, 4
_TYPING = ("List", "Dict", "Set", "Tuple", "Optional", "Union", "Callable", "Iterable", "Iterator", "Deque")
_ITERATE_AT_MOST = 1_000_000
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


class Server:
    """Answers requests about the program's names, one JSON line each.

    Requests: {"q": id, "f": target, "a": [args], "k": {kwargs}} calls; with "attr", "iter" or "get" instead of
    "f" reads an attribute, iterates, or looks a name up. A target is a dotted name or {"h": handle}.
    Answers: {"a": id, "v": value, "m": {"0": changed argument}} or {"a": id, "e": [exception name, text]}.
    """

    def __init__(self, namespace: dict[str, Any], limit: int) -> None:
        self.namespace = namespace
        self.limit = limit
        self.handles: dict[int, Any] = {}
        self.incoming = b""

    def encode(self, value: Any) -> Any:
        """Plain data, with handles for the rest."""
        return plain.encode(value, self._handle)

    def _handle(self, value: Any) -> dict[str, Any]:
        fields = getattr(value, "__dict__", None)
        if type(value).__name__ in self.namespace.get("__shared__", ()) and type(fields) is dict:
            return {"o": type(value).__name__, "n": type(value).__name__, "x": self.encode(fields)}
        number = len(self.handles) + 1
        self.handles[number] = value
        return {"h": number, "n": type(value).__name__}

    def decode(self, value: Any) -> Any:
        """Arguments: plain data, own handles, the judge's callables and shared classes."""
        return plain.decode(value, self._from_handle)

    def _from_handle(self, value: dict[str, Any]) -> Any:
        if "o" in value:
            made = object.__new__(self.namespace[value["o"]])
            made.__dict__.update(self.decode(value["x"]))
            return made
        if value["h"] < 0:
            return lambda *args, **kwargs: self._call_back(value["h"], args, kwargs)
        return self.handles[value["h"]]

    def _call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.send(
            {"b": number, "a": [self.encode(a) for a in args], "k": {k: self.encode(v) for k, v in kwargs.items()}}
        )
        while True:
            message = self.receive()
            if message is None:
                os._exit(0)
            if "r" in message:
                return self.decode(message["r"])
            if "x" in message:
                raise RuntimeError(str(message["x"]))
            self.send(self.answer(message))

    def target(self, what: Any) -> Any:
        """A name, a dotted name, or a handle."""
        if isinstance(what, dict):
            return self.handles[what["h"]]
        head, *rest = what.split(".")
        if head not in self.namespace:
            raise NameError(f"name {head!r} is not defined by the program")
        value = self.namespace[head]
        for attribute in rest:
            # LeetCode style: Solution.method is called on an instance
            value = getattr(value() if isinstance(value, type) else value, attribute)
        return value

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Serve one request."""
        number = request["q"]
        try:
            value, changed = self._serve(request)
            reply = {"a": number, "v": self.encode(value)}
            if changed:
                reply["m"] = changed
            return reply
        except RecursionError as error:
            return {"a": number, "e": ["RecursionError", str(error)[:500]]}
        except Exception as error:  # noqa: BLE001 - foreign code raises anything
            return {"a": number, "e": [type(error).__name__, _text(error), _builtin_base(error)]}

    def _serve(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "get" in request:
            return self.target(request["get"]), {}
        if "attr" in request:
            return getattr(self.target(request["of"]), request["attr"]), {}
        if "iter" in request:
            items = []
            for item in self.target(request["iter"]):
                items.append(item)
                if len(items) >= min(_ITERATE_AT_MOST, request.get("n", _ITERATE_AT_MOST)):
                    break
            return items, {}
        args = [self.decode(a) for a in request.get("a", [])]
        kwargs = {k: self.decode(v) for k, v in request.get("k", {}).items()}
        value = self.target(request["f"])(*args, **kwargs)
        changed = {}
        for index, (sent, now) in enumerate(zip(request.get("a", []), args, strict=True)):
            if isinstance(now, (list, dict, set, bytearray)) and (encoded := self.encode(now)) != sent:
                changed[str(index)] = encoded
        return value, changed

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        line = _ENCODE(message).encode() + b"\n"
        if len(line) > self.limit:
            line = json.dumps(
                {"a": message.get("a", 0), "e": ["ValueError", "the value is over the size limit"]}
            ).encode()
            line += b"\n"
        view = memoryview(line)
        while view:
            view = view[os.write(CHANNEL, view) :]

    def receive(self) -> dict[str, Any] | None:
        """Read one line; None at the end."""
        while b"\n" not in self.incoming:
            part = os.read(CHANNEL, 1 << 16)
            if not part:
                return None
            self.incoming += part
        line, self.incoming = self.incoming.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message


def _builtin_base(error: BaseException) -> str:
    """The nearest builtin class: tests say `except ValueError` of what is a program's own kind of it."""
    return next(c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")


def _text(error: BaseException) -> str:
    try:
        if type(error) is KeyError and len(error.args) == 1 and type(error.args[0]) is str:
            return error.args[0][:500]  # its str() is the repr
        return str(error)[:500]
    except Exception:  # noqa: BLE001 - foreign code raises anything
        return ""


def _preload_typing(program: str, namespace: dict[str, Any]) -> None:
    """List, Optional and their kin without an import, as the judges provide them that such tasks come from."""
    if "typing" in program or not any(f"{name}[" in program for name in _TYPING):
        return
    import typing

    namespace.update({name: getattr(typing, name) for name in _TYPING if name not in namespace})


def load(payload: dict[str, Any]) -> Server:
    """Execute the program and answer for its names. Raises what the program raises."""
    namespace = new_module("solution")
    if payload.get("setup"):
        exec(compile(payload["setup"], "setup.py", "exec", dont_inherit=True), namespace)
        namespace["__shared__"] = frozenset(k for k, v in namespace.items() if isinstance(v, type))
    _preload_typing(payload["program"], namespace)
    exec(compile(payload["program"], "solution.py", "exec", dont_inherit=True), namespace)
    return Server(namespace, payload["value_bytes"])


def run_calls(payload: dict[str, Any]) -> int:
    """Load, then either make the calls of the payload or serve the channel until it ends."""
    try:
        server = load(payload)
    except SystemExit:
        return 1
    except BaseException as error:  # noqa: BLE001 - foreign code raises anything
        Server({}, 1 << 16).send({"a": 0, "e": [type(error).__name__, _text(error)]})
        return 1
    server.send({"a": 0, "v": None})
    if "calls" in payload:
        for number, call in enumerate(payload["calls"], 1):
            server.send(server.answer({"q": number, **call}))
        return 0
    while (request := server.receive()) is not None:
        server.send(server.answer(request))
    return 0
