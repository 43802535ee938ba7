"""How values leave: encoded, with definitions of what the other side does not know yet."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rgopd.verifier.sandbox import describe, hints, library, packaged, plain
from rgopd.verifier.sandbox.shared import fields, parts
from rgopd.verifier.sandbox.tables import ATOMS, NUMPY_KINDS, Tables, builtin_exception

_SMALL = 1 << 53
_MUTABLE = (list, dict, set, bytearray)
_IMMUTABLE = ("int", "float", "complex", "str", "bytes", "tuple", "frozenset")


class Outgoing(Tables):
    """The encoding half."""

    def envelope(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message and all that has to be known to read it."""
        changes = []
        for number, value in self.shared.changed():
            changes.append([number, self._shallow(value)])
            while self._queue:
                entry, shared = self._queue.pop()
                entry[1] = self._shallow(shared)
        gone = self.shared.unused()
        for number, _ in [*changes, *self._new]:
            if number not in gone:
                self.shared.settle(number, self._seen.get(number))
        self._seen.clear()
        extra = {"c": self._described, "o": self._new, "m": changes, "d": gone}
        self._described, self._new = [], []
        if self.mirrors.lifetimes is not None:
            extra["f"] = self.mirrors.lifetimes.gone()
        return message | {key: value for key, value in extra.items() if value}

    def withdraw(self, envelope: Mapping[str, Any]) -> None:
        """A message that could not be sent: what it would have defined is not known there."""
        self.shared.forget([number for number, _ in envelope.get("o", ())])
        self._described = envelope.get("c", [])

    def encode(self, value: Any) -> Any:
        """The form in which a value crosses. Raises NotPlain for what may not; then nothing of it does."""
        first = len(self._new)
        try:
            form = self._encode(value)
            while self._queue:  # not by recursion: linked lists are long
                entry, shared = self._queue.pop()
                entry[1] = self._shallow(shared)
            return form
        except BaseException:
            self._queue.clear()
            self.shared.forget([number for number, _ in self._new[first:]])
            del self._new[first:]
            raise

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in ATOMS:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else {"i": hex(value)}
        if kind is tuple:
            return {"t": [self._encode(x) for x in value]}
        if kind in _MUTABLE or (kind.__module__, kind.__name__) in library.MUTABLE or packaged.is_mutable(kind):
            return self._share(value)
        if self._is_by_value(kind):
            return self._common(value, kind)
        if (home := self.mirrors.home(value)) is not None:
            return home
        if isinstance(value, type):
            return self.class_reference(value)
        return self._encode_rest(value, kind)

    def _encode_rest(self, value: Any, kind: type) -> Any:
        if hints.knows(value):
            return hints.encode(value, self._encode)
        if isinstance(value, BaseException):
            return self._exception(value)
        if kind is frozenset or kind in plain.ENCODERS or library.knows(kind):
            return self._copy(value)
        if (form := packaged.encode(value, self._encode)) is not None:
            return form
        if kind.__module__ == "numpy":
            return self._numpy(value)
        if self.shared.sign < 0 and (kind.__module__, kind.__name__) == ("re", "Pattern"):
            return {"rx": [self._encode(value.pattern), value.flags]}
        if describe.data_base(kind):
            return self._derived(value, kind)
        return self._export(value)

    def _common(self, value: Any, kind: type) -> Any:
        """An instance of a class that both sides have."""
        if isinstance(value, BaseException):
            return self._exception(value)
        if "__members__" in dir(kind):
            return {"M": [kind.__name__, str(value.name)]}
        if base := describe.data_base(kind):
            return {"B": [kind.__name__, self._copy(value)]} if base in _IMMUTABLE else self._derived(value, kind)
        return self._share(value)

    def _is_by_value(self, kind: type) -> bool:
        return self.by_value.get(kind.__name__) is kind

    def _copy(self, value: Any) -> Any:
        """The data of an immutable value, read past any override."""
        if isinstance(value, tuple):
            return {"t": [self._encode(x) for x in tuple.__iter__(value)]}
        if isinstance(value, frozenset):
            return {"f": [self._encode(x) for x in frozenset.__iter__(value)]}
        for base in type(value).__mro__:
            if base in plain.ENCODERS:
                return plain.ENCODERS[base](value, plain.refuse)
            if library.knows(base):
                break
        return library.encode(value, self._encode)

    def _share(self, value: Any) -> dict[str, Any]:
        number = self.shared.number(value)
        if number is None:
            number = self.shared.add(value)
            entry = [number, None]
            self._new.append(entry)
            self._queue.append((entry, value))
        return {"=": number}

    def _shallow(self, value: Any) -> Any:
        """One shared object; what it holds that is shared too, by number."""
        kind = type(value)
        if (number := self.shared.number(value)) is not None:  # a thread of the program's may go on changing it
            self._seen[number] = parts(value)
        if isinstance(value, list):
            form: dict[str, Any] = {"l": [self._encode(x) for x in list.__iter__(value)]}
        elif (kind.__module__, kind.__name__) in library.MUTABLE:
            return library.encode(value, self._encode)
        elif packaged.is_mutable(kind):
            return packaged.encode(value, self._encode)
        elif describe.data_base(kind) not in ("", "dict", "set", "bytearray"):
            form = library.encode(value, self._encode) or {}
        elif isinstance(value, dict):
            form = {"d": [[self._encode(k), self._encode(v)] for k, v in list(dict.items(value))]}
        elif isinstance(value, set):
            form = {"s": [self._encode(x) for x in list(set.__iter__(value))]}
        elif isinstance(value, bytearray):
            form = {"y": bytearray.hex(value)}
        else:
            return {"o": kind.__name__, "x": [[name, self._encode(part)] for name, part in fields(value).items()]}
        if kind not in _MUTABLE:  # a class of its own: its methods stay where it is
            form |= self.mirrors.home(value) or self._export(value)
        return form

    def _derived(self, value: Any, kind: type) -> dict[str, Any]:
        """An instance of a class that derives from a value class: the data, and where its methods are."""
        base = describe.data_base(kind)
        if base in ("list", "dict", "set", "bytearray") or tuple(base.rsplit(".", 1)) in library.MUTABLE:
            return self._share(value)
        return self._export(value) | {"v": self._copy(value)}

    def _export(self, value: Any) -> dict[str, Any]:
        number = self._numbers.get(id(value))
        if number is None:
            self.exportable(value)
            number = self._numbers[id(value)] = self._next()
            self._exports[number] = value
        return {"h": number, "k": self._class_number(type(value))}

    def class_reference(self, kind: type) -> dict[str, Any]:
        """A class itself: by name where both sides have it, else as an object with a description."""
        if (home := self.mirrors.home(kind)) is not None:
            return home
        if hints.knows(kind):  # Any is a class
            return hints.encode(kind, self._encode)
        if library.TYPES.get(kind.__name__) is kind or builtin_exception(kind.__name__) is kind:
            return {"g": ["builtins", kind.__name__]}
        if self._is_by_value(kind) or library.class_of(kind.__module__, kind.__name__) is kind:
            return {"g": ["" if self._is_by_value(kind) else kind.__module__, kind.__name__]}
        if packaged.class_of(kind.__module__, kind.__name__) is kind:
            return {"g": [kind.__module__, kind.__name__]}
        return {"K": self._class_number(kind)}

    def _class_number(self, kind: type) -> int:
        number = self._numbers.get(id(kind))
        if number is None:
            number = self._numbers[id(kind)] = self._next()
            self._exports[number] = self._classes[number] = kind
            entry: list[Any] = [number, None]
            description = describe.describe(kind, self.class_reference)
            entry[1] = description
            self._described.append(entry)  # after its bases
        return number

    def _exception(self, error: BaseException, last: bool = False) -> dict[str, Any]:
        kind = type(error)
        said: dict[str, Any] = {"a": self._arguments(error), "c": None}
        if isinstance(error, OSError) and error.filename is not None:
            said["a"] = [self._encode(x) for x in (error.errno, error.strerror, error.filename)]
        if error.__cause__ is not None and not last:
            said["c"] = self._exception(error.__cause__, last=True)
        elif error.__suppress_context__:
            said["s"] = True
        elif error.__context__ is not None and not last:
            said["o"] = self._exception(error.__context__, last=True)
        shared = self._is_by_value(kind)
        if shared or kind.__module__.partition(".")[0] in sys.stdlib_module_names:
            names = ["" if shared else kind.__module__, kind.__qualname__, describe.builtin_base(kind)]
            return said | {"X": names, "v": self._fields(error)}
        return said | self._export(error)

    def _arguments(self, error: BaseException) -> list[Any]:
        try:
            return [self._encode(x) for x in error.args]
        except (plain.NotPlain, RecursionError):
            return [_text(error)]

    def _fields(self, error: BaseException) -> list[Any]:
        found = []
        for name, part in fields(error).items():
            try:
                found.append([name, self._encode(part)])
            except plain.NotPlain:
                continue
        return found

    def _numpy(self, value: Any) -> Any:
        dtype = getattr(value, "dtype", None)
        if dtype is None or dtype.kind not in NUMPY_KINDS or not hasattr(value, "tolist"):
            return self._export(value)
        parts = plain.encode(value.reshape(-1).tolist(), plain.refuse)
        return {"nd": [dtype.str, list(value.shape), parts, type(value).__name__ == "ndarray"]}


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:  # noqa: BLE001 - foreign code raises anything
        return ""
