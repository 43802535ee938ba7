"""The conversation between the program's process and the tests': one asks, the other answers, and may ask back first.

One JSON object a line. A request is {"q": operation, "on": target, ...}, an answer {"v": value} or {"e": exception};
either carries what `Crossing.envelope` adds. Only one side is active at any time.
"""

from __future__ import annotations

import _thread
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.crossing import Crossing
from rgopd.verifier.sandbox.describe import perform
from rgopd.verifier.sandbox.mirror import Mirrors, Rules
from rgopd.verifier.sandbox.world import World

_DEEPEST = 100
_read, _write = os.read, os.write  # tests put others in their places
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for every message


LATER: Any = object()
"""What came of a request is not there yet."""


class Gone(BaseException):
    """The other side has ended, or what it said makes no sense. Not an Exception: test code must not swallow it."""


class Peer:
    """One side.

    Args:
        channel: the socket.
        sign: 1 or -1, other than the other side's.
        limit: bytes of one message that are taken.
        lost: called with a reason when the conversation cannot go on; raises or exits.
        rules: for stand-ins.
        guard: raises NotPlain for what the other side may not have or do.
    """

    def __init__(
        self, channel: int, sign: int, limit: int, lost: Callable[[str], NoReturn], rules: Rules | None, guard: Guard
    ) -> None:
        self.channel = channel
        self.limit = limit
        self.lost = lost
        self.guard = guard
        self.mirrors = Mirrors(self.ask, rules)
        self.crossing = Crossing(sign, self.mirrors, guard.exportable, lambda on, name: guard.serving("get", on, name))
        self.asked = 0
        self.world = World([], of_tests=False)
        self.lock = _thread.RLock()  # tests start threads
        self._busy = False
        self._depth = 0
        self.threads: Any = None  # of the tests: `threads.Numbers`
        self.asking: list[str] = []  # what is waited for an answer to, the last one innermost
        self._incoming = bytearray()

    # --- asking

    def ask(self, operation: str, target: Any, **details: Any) -> Any:
        """Ask the other side; what it answers, or the exception that came of it."""
        if operation == "finally":  # a generator that is thrown away, at whatever moment
            return None if self._busy else self._ask("method", target, details)
        with self.lock:
            value = self._ask(operation, target, details)
        times = 0
        while value is LATER:  # other threads of the tests may ask meanwhile
            self.threads.pause(times := times + 1)
            with self.lock:
                value = self._ask("resume", None, {})
        return value

    def _ask(self, operation: str, target: Any, details: dict[str, Any]) -> Any:
        if self._depth >= _DEEPEST:
            raise RecursionError("calls between the program and its tests nest too deeply")
        self.asked += operation != "resume"
        self.guard.asking(self.asked)
        encode = self.crossing.encode
        message: dict[str, Any] = {"q": operation, "on": encode(target)}
        if self.threads is not None:
            message["th"] = self.threads.number()
            message["te"], self.threads.ended[:] = self.threads.ended[:], []
        if "name" in details:
            message["n"] = details["name"]
        if "value" in details:
            message["w"] = encode(details["value"])
        if operation != "name" and (replaced := self.guard.replaced()):
            message["s"] = self._encoded(replaced)
        if details.get("args"):
            message["a"] = [encode(x) for x in details["args"]]
        if details.get("kwargs"):
            message["k"] = {name: encode(x) for name, x in details["kwargs"].items()}
        if changes := self.world.changes():
            message["z"] = changes
        del details, target
        self._depth += 1
        self.asking.append(operation)
        was, self._busy = self._busy, True
        try:
            self.send(self.crossing.envelope(message))
            return self._answer(operation, str(message.get("n", "")))
        finally:
            self._depth -= 1
            self.asking.pop()
            self._busy = was

    def _encoded(self, replaced: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, thing in replaced.items():
            try:
                found[name] = self.crossing.encode(thing)
            except plain.NotPlain:
                continue
        return found

    def _answer(self, operation: str, name: str) -> Any:
        while True:
            reply = self.receive()
            if "q" in reply:
                self.serve(reply)
                continue
            error, value = None, None
            try:
                with self.crossing.reading():
                    self.crossing.absorb(reply)
                    if "e" in reply:
                        error = self.crossing.decode(reply["e"])
                    else:
                        value = self.crossing.decode(reply.get("v"))
            except plain.NotPlain as problem:
                self.lost(str(problem))
            self.crossing.release(reply.get("f", ()))
            self._adopt(reply)
            if "later" in reply and self.threads is not None:
                return LATER
            if isinstance(error, BaseException):
                self.guard.raised(error, operation, name)
                raise error
            return value

    def _adopt(self, message: dict[str, Any]) -> None:
        if "z" in message:
            try:
                self.world.adopt(message["z"])
            except plain.MALFORMED as problem:
                self.lost(f"malformed message: {type(problem).__name__}: {problem}"[:200])

    # --- answering

    def serve(self, request: dict[str, Any]) -> None:
        """Answer one request."""
        was, self._busy = self._busy, False
        try:
            self.send(self.crossing.envelope(self._served(request)))
        finally:
            self._busy = was

    def _served(self, request: dict[str, Any]) -> dict[str, Any]:
        self._adopt(request)
        try:
            value = self._perform(request)
            answer = {"v": None, "later": True} if value is LATER else {"v": self.crossing.encode(value)}
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - foreign code raises anything
            answer = {"e": self.exception(error)}
        changes = self.world.changes()
        return answer | {"z": changes} if changes else answer

    def exception(self, error: BaseException) -> Any:
        """The form in which an exception crosses, whatever it is."""
        try:
            return self.crossing.encode(TypeError(str(error)) if isinstance(error, plain.NotPlain) else error)
        except BaseException:  # noqa: BLE001 - foreign code raises anything
            return {"X": ["builtins", "RuntimeError", "RuntimeError"], "a": [type(error).__name__], "v": [], "c": None}

    def _perform(self, request: dict[str, Any]) -> Any:
        return self._do(*self._decoded(request))

    def _decoded(self, request: dict[str, Any]) -> tuple[Any, ...]:
        decode = self.crossing.decode
        operation, name = str(request["q"]), str(request.get("n", ""))
        with self.crossing.reading():
            self.crossing.absorb(request)
            on, value = decode(request.get("on")), decode(request.get("w"))
            args = [decode(x) for x in request.get("a", ())]
            kwargs = {str(k): decode(x) for k, x in request.get("k", {}).items()}
            replaced = {str(k): decode(x) for k, x in request.get("s", {}).items()}
        self.crossing.release(request.get("f", ()))
        return operation, on, name, value, args, kwargs, replaced

    def _do(self, *parts: Any) -> Any:
        *request, replaced = parts
        if not (replaced or self.world.says):
            return self._carry_out(*request)
        with self.guard.within(replaced), self.world.listening():
            return self._carry_out(*request)

    def _carry_out(
        self, operation: str, on: Any, name: str, value: Any, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        self.guard.serving(operation, on, name)
        if operation == "call":
            return on(*args, **kwargs)
        if operation == "special":
            return perform(name, on, args)
        if operation == "method":
            return getattr(on, name)(*args)
        if operation == "get":
            return getattr(on, name)
        if operation in ("isinstance", "issubclass"):
            return (isinstance if operation == "isinstance" else issubclass)(value, on)
        if operation == "set":
            return self.guard.set(on, name, value)
        if operation == "del":
            return delattr(on, name)
        return self.guard.other(operation, on, name, value)

    # --- lines

    def send(self, message: dict[str, Any]) -> None:
        """Write one line. Says so instead where it would be over the limit."""
        line = _ENCODE(message).encode() + b"\n"
        if len(line) > self.limit and "q" not in message:
            self.crossing.withdraw(message)
            over = {"X": ["builtins", "ValueError", "ValueError"], "a": ["the value is over the size limit"], "v": []}
            line = _ENCODE(self.crossing.envelope({"e": over})).encode() + b"\n"
        view = memoryview(line)
        try:
            while view:
                view = view[_write(self.channel, view) :]
        except (BrokenPipeError, ConnectionResetError):
            self.lost("the program ended")

    def receive(self) -> dict[str, Any]:
        """Read one line."""
        while (end := self._incoming.find(b"\n")) < 0:
            if len(self._incoming) > self.limit:
                self.lost("a value is over the size limit")
            try:
                part = _read(self.channel, 1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                self.lost("the program ended")
            self._incoming += part
        line = bytes(self._incoming[:end])
        del self._incoming[: end + 1]
        try:
            message = plain.parse(line)
        except plain.NotPlain:
            message = None
        if type(message) is not dict or not message.keys() & {"q", "v", "e"}:
            self.lost("the program wrote to the answer channel")
        return message


class Guard:
    """What one side lets the other have and do. This one, the program's, lets it do everything: the tests are trusted,
    and what they see of a program is judged by them."""

    def exportable(self, value: Any) -> None:
        """Raise NotPlain for an object that must not be named over there."""

    def replaced(self) -> dict[str, Any]:
        """What stands here in the place of print(), input() and the standard streams, by name."""
        return {}

    @contextmanager
    def within(self, replaced: dict[str, Any]) -> Iterator[None]:
        """While one request is carried out, with these in place."""
        yield

    def set(self, on: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        setattr(on, name, value)

    def asking(self, count: int) -> None:
        """Before a request; how many there have been."""

    def raised(self, error: BaseException, operation: str, name: str) -> None:
        """An exception arrived as the answer to an operation."""

    def serving(self, operation: str, on: Any, name: str) -> None:
        """Raise NotPlain for what may not be asked."""

    def other(self, operation: str, on: Any, name: str, value: Any) -> Any:
        """Operations beside those on objects."""
        raise plain.NotPlain(f"no operation {operation}")
