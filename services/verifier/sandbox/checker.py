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
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.candidate import CHANNEL, PAYLOAD, new_module, read_all

RESULT = 5


class CandidateGone(Exception):
    """The candidate's process ended, or sent what is no answer."""


class RemoteError(Exception):
    """The candidate raised an exception of a class that is not a builtin."""


class Remote:
    """A stand-in for a name or an object of the candidate's. Never equal to anything but itself."""

    def __init__(self, link: Link, target: Any) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_target", target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called over there, with arguments that the link can carry."""
        return self._link.call(self._target, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.ask(attr=name, of=self._target)

    def __bool__(self) -> bool:
        return True

    # What these give is compared here, as what methods give; `in`, `<` and the like could only say yes.
    def __len__(self) -> Any:
        return self._special("__len__")

    def __getitem__(self, key: Any) -> Any:
        return self._special("__getitem__", key)

    def __str__(self) -> Any:
        return self._special("__str__")

    def _special(self, name: str, *args: Any) -> Any:
        try:
            method = self._link.ask(attr=name, of=self._target)
        except AttributeError as error:
            raise TypeError(f"the program's object has no {name}") from error
        return method(*args)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._link.ask(iter=self._target))

    def __next__(self) -> Any:
        items = self._link.ask(iter=self._target, n=1)
        if not items:
            raise StopIteration
        return items[0]


class Link:
    """Requests to the candidate and their answers."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.number = 0
        self.incoming = bytearray()
        self.callables: list[Any] = []
        self.classes: dict[str, type] = {}
        self.gone = ""
        self.raised = ""

    def start(self) -> None:
        """Wait until the program is loaded."""
        message = self._receive()
        if "e" in message:
            self._lose(f"the program raised {_exception_text(message['e'])}")

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, and apply what the candidate changed in mutable arguments."""
        before = len(self.callables)
        request = {
            "f": target,
            "a": [self._encode(a) for a in args],
            "k": {k: self._encode(v) for k, v in kwargs.items()},
        }
        reply = self._exchange(request)
        for index, value in (reply.get("m") or {}).items():
            _replace(args[int(index)], self._decode(value))
        del self.callables[before:]
        return self._decode(reply.get("v"))

    def ask(self, **request: Any) -> Any:
        """Attribute, iteration or name."""
        return self._decode(self._exchange(request).get("v"))

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        self._send({"q": self.number, **request})
        while True:
            reply = self._receive()
            if "b" in reply:
                self._send(self._called_back(reply))
                continue
            if reply.get("a") != self.number:
                self._lose("the program wrote to the answer channel")
            if "e" in reply:
                self.raised = self.raised or _exception_text(reply["e"])
                raise _exception(reply["e"], self.classes)
            return reply

    def _called_back(self, reply: dict[str, Any]) -> dict[str, Any]:
        try:
            function = self.callables[-1 - int(reply["b"])]
            args = [self._decode(a) for a in reply.get("a", [])]
            kwargs = {str(k): self._decode(v) for k, v in reply.get("k", {}).items()}
            return {"r": self._encode(function(*args, **kwargs))}
        except CandidateGone:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code raises anything
            return {"x": f"{type(error).__name__}: {error}"[:500]}

    def _encode(self, value: Any) -> Any:
        return plain.encode(value, self._handle)

    def _handle(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            target = value._target
            return target if isinstance(target, dict) else {"h": self.ask_handle(target), "n": target}
        if type(value) is self.classes.get(type(value).__name__):
            name = type(value).__name__
            return {"o": name, "n": name, "x": self._encode(vars(value))}
        if callable(value):
            self.callables.append(value)
            return {"h": -len(self.callables), "n": "callable"}
        raise plain.NotPlain(f"the test passes a {type(value).__name__}, which has no plain form")

    def ask_handle(self, name: str) -> int:
        """The handle of a named object."""
        value = self.ask(get=name)
        if isinstance(value, Remote) and isinstance(value._target, dict):
            return int(value._target["h"])
        raise plain.NotPlain(f"{name} is not an object")

    def _decode(self, value: Any) -> Any:
        try:
            return plain.decode(value, self._from_handle)
        except plain.NotPlain as error:
            self._lose(str(error))

    def _from_handle(self, value: dict[str, Any]) -> Any:
        name = value.get("o")
        if name is None:
            return Remote(self, {"h": int(value["h"]), "n": "object"})
        if name not in self.classes:
            raise plain.NotPlain("unknown class")
        made: Any = object.__new__(self.classes[name])
        fields = self._decode(value["x"])
        replaced = next((field for field in fields if _is_behaviour(self.classes[name], field)), None)
        if replaced is not None:
            self._lose(f"the program replaced {replaced!r} of a {name}")
        made.__dict__.update(fields)
        return made

    def _send(self, message: dict[str, Any]) -> None:
        view = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        try:
            while view:
                view = view[os.write(CHANNEL, view) :]
        except (BrokenPipeError, ConnectionResetError):
            self._lose("the program ended")

    def _receive(self) -> dict[str, Any]:
        while (end := self.incoming.find(b"\n")) < 0:
            if len(self.incoming) > self.limit:
                self._lose("a value is over the size limit")
            try:
                part = os.read(CHANNEL, 1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                self._lose("the program ended")
            self.incoming += part
        line = bytes(self.incoming[:end])
        del self.incoming[: end + 1]
        try:
            message = plain.parse(line)
        except plain.NotPlain:
            message = None
        if isinstance(message, dict):
            return message
        return self._lose("the program wrote to the answer channel")

    def _lose(self, reason: str) -> NoReturn:
        self.gone = self.gone or reason
        raise CandidateGone(reason)


def _replace(old: Any, new: Any) -> None:
    if type(old) is list and type(new) is list:
        old[:] = new
    elif type(old) in (dict, set) and type(new) is type(old):
        old.clear()
        old.update(new)
    elif type(old) is bytearray and type(new) is bytearray:
        old[:] = new


def _is_behaviour(owner: type, field: Any) -> bool:
    """Does the class itself say what this name does? Then an instance must not: it would answer for the test."""
    if type(field) is not str:
        return True
    known = next((vars(base)[field] for base in owner.__mro__ if field in vars(base)), None)
    return callable(known) or hasattr(type(known), "__get__")


def _described(said: Any) -> tuple[str, str, str]:
    parts = [str(part)[:500] for part in said[:3]] if type(said) is list else []
    name, text, base = (*parts, "", "", "")[:3]
    return name, text, base


def _exception(said: Any, classes: Mapping[str, type]) -> Exception:
    name, text, base = _described(said)
    for known in (classes.get(name), getattr(builtins, name, None)):
        if isinstance(known, type) and issubclass(known, Exception):
            try:
                made: Exception = known(text)
                return made
            except TypeError:  # UnicodeDecodeError and its kin want more arguments
                continue
    parent = getattr(builtins, base, Exception)
    if not (isinstance(parent, type) and issubclass(parent, Exception)) or parent is Exception:
        return RemoteError(f"{name}: {text}")
    try:
        made = type(name or base, (parent,), {"__init__": lambda self, text: None})(text)
    except (TypeError, ValueError):  # no name for a class
        return RemoteError(f"{name}: {text}")
    made.args = (text,)
    return made


def _exception_text(said: Any) -> str:
    name, text, _ = _described(said)
    return f"{name}: {text}" if text else name


def run(payload: dict[str, Any], link: Link) -> Iterator[dict[str, Any]]:
    """Yield an outcome per test: {"ok": bool, "reason": text}; {"broken": text} when the test code itself is."""
    namespace = new_module("checker")
    try:
        for source in payload["preludes"]:
            exec(compile(source, "prelude.py", "exec", dont_inherit=True), namespace)
        wanted = {name for name in payload["names"] if name not in namespace} | set(payload["remote"])
        namespace.update({name: Remote(link, name) for name in wanted})
        link.start()
        exec(compile(payload["setup"], "setup.py", "exec", dont_inherit=True), namespace)
        link.classes = {k: v for k, v in namespace.items() if isinstance(v, type) and v.__module__ == "checker"}
    except CandidateGone:
        for _ in payload["tests"]:
            yield {"ok": False, "reason": link.gone}
        return
    except Exception as error:  # noqa: BLE001 - foreign code raises anything
        if link.raised:  # the setup calls the program
            for _ in payload["tests"]:
                yield {"ok": False, "reason": f"the program raised {link.raised}"}
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
    reason = ""
    try:
        exec(code, namespace)
    except CandidateGone:
        pass
    except AssertionError as error:
        reason = f"assertion failed: {error}"[:500] if str(error) else "assertion failed"
    except BaseException as error:  # noqa: BLE001 - foreign code raises anything
        reason = f"{type(error).__name__}: {error}"[:500]
    if link.gone:  # even where the test swallowed it
        reason = link.gone
    return {"ok": not reason, "reason": reason}


def main() -> int:
    """Run the tests of the payload; one JSON line a test on RESULT."""
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
