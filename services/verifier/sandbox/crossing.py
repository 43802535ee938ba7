"""How values cross between the program's process and the tests': each side has one `Crossing`.

Plain values are copied. Mutable ones are copied and kept in step (`shared`). Everything else stays where it is and is
spoken of by a number: an object as {"h"}, with its class, of which a description goes ahead once; what comes home is
{"H"}. Nothing of the sender's is ever executed here: decoding makes values, stand-ins, or raises `NotPlain`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rgopd.verifier.sandbox import describe, library, plain
from rgopd.verifier.sandbox.mirror import Mirrors
from rgopd.verifier.sandbox.shared import Shared, fields, replace

_SMALL = 1 << 53
_ATOMS = (bool, float, str)
_MUTABLE = (list, dict, set, bytearray)
_IMMUTABLE = ("int", "float", "complex", "str", "bytes", "tuple", "frozenset")
_MOST_CLASSES = 2000
_NUMPY_KINDS = "biufc"


class Crossing:
    """Encodes and decodes messages of one side.

    Args:
        sign: 1 or -1: whose numbers are positive.
        mirrors: makes stand-ins.
        exportable: raises NotPlain for an object that the other side may not hold.
        readable: raises NotPlain for an attribute that it may not name.
    """

    def __init__(
        self,
        sign: int,
        mirrors: Mirrors,
        exportable: Callable[[Any], None],
        readable: Callable[[Any, str], None],
    ) -> None:
        self.readable = readable
        self.shared = Shared(sign)
        self.mirrors = mirrors
        self.exportable = exportable
        self.by_value: dict[str, type] = {}
        self._exports: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # id -> number of an exported object
        self._classes: dict[int, type] = {}
        self._new: list[Any] = []  # definitions of shared objects that go with the next message
        self._queue: list[tuple[list[Any], Any]] = []  # of those, the ones that still need their form
        self._described: list[Any] = []
        self._unneeded: list[int] = []  # over there
        self._reading = 0
        self._decoders: dict[str, Callable[[Any], Any]] = {
            "=": lambda v: self.shared[v["="]],
            "t": lambda v: tuple([self.decode(x) for x in v["t"]]),
            "X": self._known_exception,
            "h": self._stand_in,
            "H": self._at_home,
            "K": lambda v: self.mirrors.of_class(int(v["K"])),
            "g": lambda v: self._global(*v["g"]),
            "f": lambda v: frozenset(library.checked([self.decode(x) for x in v["f"]])),
            "nd": self._array,
            "M": lambda v: self.by_value[v["M"][0]][v["M"][1]],  # type: ignore[index]
            "B": self._data_of_common_class,
        }

    # --- out -----------------------------------------------------------------------------------------------------

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
                self.shared.settle(number)
        extra = {"c": self._described, "o": self._new, "m": changes, "d": gone}
        self._described, self._new = [], []
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
        if value is None or kind in _ATOMS:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else {"i": hex(value)}
        if kind is tuple:
            return {"t": [self._encode(x) for x in value]}
        if kind in _MUTABLE or (kind.__module__, kind.__name__) in library.MUTABLE:
            return self._share(value)
        if self._is_by_value(kind):
            return self._common(value, kind)
        if (home := self.mirrors.home(value)) is not None:
            return home
        if isinstance(value, type):
            return self.class_reference(value)
        return self._encode_rest(value, kind)

    def _encode_rest(self, value: Any, kind: type) -> Any:
        if isinstance(value, BaseException):
            return self._exception(value)
        if kind is frozenset or kind in plain.ENCODERS or library.knows(kind):
            return self._copy(value)
        if kind.__module__ == "numpy":
            return self._numpy(value)
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
        if isinstance(value, list):
            form: dict[str, Any] = {"l": [self._encode(x) for x in list.__iter__(value)]}
        elif (kind.__module__, kind.__name__) in library.MUTABLE:
            return library.encode(value, self._encode)
        elif describe.data_base(kind) not in ("", "dict", "set", "bytearray"):
            form = library.encode(value, self._encode) or {}
        elif isinstance(value, dict):
            form = {"d": [[self._encode(k), self._encode(v)] for k, v in dict.items(value)]}
        elif isinstance(value, set):
            form = {"s": [self._encode(x) for x in set.__iter__(value)]}
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
            number = self._numbers[id(value)] = len(self._exports) + 1
            self._exports[number] = value
        return {"h": number, "k": self._class_number(type(value))}

    def class_reference(self, kind: type) -> dict[str, Any]:
        """A class itself: by name where both sides have it, else as an object with a description."""
        if (home := self.mirrors.home(kind)) is not None:
            return home
        if library.TYPES.get(kind.__name__) is kind or _builtin_exception(kind.__name__) is kind:
            return {"g": ["builtins", kind.__name__]}
        if self._is_by_value(kind) or library.class_of(kind.__module__, kind.__name__) is kind:
            return {"g": ["" if self._is_by_value(kind) else kind.__module__, kind.__name__]}
        return {"K": self._class_number(kind)}

    def _class_number(self, kind: type) -> int:
        number = self._numbers.get(id(kind))
        if number is None:
            number = self._numbers[id(kind)] = len(self._exports) + 1
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
        if dtype is None or dtype.kind not in _NUMPY_KINDS or not hasattr(value, "tolist"):
            return self._export(value)
        parts = plain.encode(value.reshape(-1).tolist(), plain.refuse)
        return {"nd": [dtype.str, list(value.shape), parts, type(value).__name__ == "ndarray"]}

    # --- in ------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the parts of a message are decoded. What the other side no longer needs is forgotten after it, since
        the message itself may still speak of it."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1
            if not self._reading and self._unneeded:
                self.shared.forget(self._unneeded)
                self._unneeded = []

    def absorb(self, message: Mapping[str, Any]) -> None:
        """Take in what a message says beside its value, within `reading`. Raises NotPlain for what is no message."""
        try:
            for number, description in message.get("c", ()):
                self._learn(number, description)
            waiting = [(number, form, self._create(number, form)) for number, form in message.get("o", ())]
            for number, form, value in waiting:
                self._fill(value, form)
                self.shared.settle(number)
            for number, form in message.get("m", ()):
                self._fill(self.shared[number], form)
                self.shared.settle(number)
            self._unneeded += message.get("d", ())
        except plain.MALFORMED as error:
            raise plain.NotPlain(f"malformed message: {type(error).__name__}: {error}"[:200]) from None

    def _learn(self, number: Any, description: Any) -> None:
        if self.mirrors.count >= _MOST_CLASSES:
            raise plain.NotPlain("too many classes")
        bases = [self.decode(base) for base in description["b"]]
        self.mirrors.learn(int(number), description, [base for base in bases if isinstance(base, type)])

    def _create(self, number: int, form: Any) -> Any:
        """An empty object, so that others can refer to it."""
        if "h" in form:
            value = self.mirrors.instance(int(form["h"]), int(form["k"]), None)
        elif "o" in form:
            value = object.__new__(self.by_value[form["o"]])
        elif "l" in form:
            value = []
        elif "d" in form:
            value = {}
        elif "s" in form:
            value = set()
        elif "y" in form:
            value = bytearray()
        else:
            ((tag, body),) = form.items()
            empty = [[], body[1] if tag == "q" else None] if tag in ("q", "u") else [body[0], []] if tag == "A" else []
            value = library.DECODERS[tag](empty, self.decode)
        self.shared.add(value, int(number))
        return value

    def _fill(self, value: Any, form: Any) -> None:
        if "o" in form:
            self._fill_fields(value, {str(name): self.decode(part) for name, part in form["x"]})
        elif "l" in form:
            replace(value, [self.decode(x) for x in form["l"]])
        elif "s" in form:
            replace(value, library.checked(self.decode(x) for x in form["s"]))
        elif "y" in form:
            replace(value, bytes.fromhex(form["y"]))
        elif "d" in form:
            replace(value, self._table(form["d"]))
        else:
            tag = next(tag for tag in form if tag in library.DECODERS)
            new = library.DECODERS[tag](form[tag], self.decode)
            replace(value, new)
            if tag == "u":
                value.default_factory = new.default_factory

    def _table(self, body: Any) -> dict[Any, Any]:
        pairs = [(self.decode(k), self.decode(v)) for k, v in body]
        library.checked(k for k, _ in pairs)
        return dict(pairs)

    def _fill_fields(self, value: Any, new: dict[str, Any]) -> None:
        kind = type(value)
        replaced = next((name for name in new if is_behaviour(kind, name)), None)
        if replaced is not None:
            raise plain.NotPlain(f"the program replaced {replaced!r} of a {kind.__name__}")
        own = getattr(value, "__dict__", None)
        if own is not None:
            own.clear()
        for name, part in new.items():
            object.__setattr__(value, name, part)

    def decode(self, value: Any) -> Any:
        """A value that arrived. Raises NotPlain for what is none."""
        kind = type(value)
        if value is None or kind in _ATOMS or kind is int:
            return value
        if kind is not dict:
            raise plain.NotPlain("malformed value")
        try:
            for tag, decoder in self._decoders.items():
                if tag in value:
                    return decoder(value)
            ((tag, body),) = value.items()
            if tag in library.DECODERS:
                return library.DECODERS[tag](body, self.decode)
            if tag in ("i", "c", "b"):
                return plain.decode(value)
        except RecursionError:
            raise plain.NotPlain("the value nests too deeply") from None
        except plain.MALFORMED as error:
            if isinstance(error, plain.NotPlain):
                raise
            raise plain.NotPlain(f"malformed value: {type(error).__name__}: {error}"[:200]) from None
        raise plain.NotPlain("malformed value")

    def _stand_in(self, form: Any) -> Any:
        if "a" in form:
            arguments = tuple([self.decode(x) for x in form["a"]])
            return self._caused(self.mirrors.exception(int(form["h"]), int(form["k"]), arguments), form)
        data = self.decode(form["v"]) if "v" in form else None
        return self.mirrors.instance(int(form["h"]), int(form["k"]), data)

    def _data_of_common_class(self, form: Any) -> Any:
        name, data = form["B"]
        kind, value = self.by_value[name], self.decode(data)
        value_type: Any = library.TYPES.get(describe.data_base(kind))
        if value_type is None or type(value) is not value_type:
            raise plain.NotPlain("not the data of its class")
        return value_type.__new__(kind, value)

    def _at_home(self, form: Any) -> Any:
        value = self._exports[int(form["H"])]
        if "at" not in form:
            return value
        self.readable(value, str(form["at"]))
        return getattr(value, str(form["at"]))

    def _global(self, module: str, name: str) -> Any:
        if not module:
            return self.by_value[name]
        if module == "builtins":
            found = library.TYPES.get(name) or _builtin_exception(name) or library.class_of(module, name)
        else:
            found = library.class_of(module, name)
        if found is None:
            raise plain.NotPlain(f"no class {module}.{name}"[:100])
        return found

    def _known_exception(self, form: Any) -> BaseException:
        module, name, base = map(str, form["X"])
        kind = library.loaded(module, name) if module else self.by_value.get(name)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = _builtin_exception(base) or Exception
        arguments = tuple([self.decode(x) for x in form["a"]])
        made: BaseException
        try:
            made = kind(*arguments) if kind.__module__ == "builtins" else kind.__new__(kind, *arguments)
        except (TypeError, ValueError):  # UnicodeDecodeError and its kin want other arguments
            made = kind.__new__(kind)
        if not isinstance(made, OSError):
            made.args = arguments
        for field, part in form["v"]:
            if not is_behaviour(kind, field):
                made.__dict__[field] = self.decode(part)
        return self._caused(made, form)

    def _caused(self, error: BaseException, form: Any) -> BaseException:
        if form.get("c") is not None:
            cause = self.decode(form["c"])
            error.__cause__ = cause if isinstance(cause, BaseException) else None
        return error

    def _array(self, form: Any) -> Any:
        dtype, shape, parts, is_array = form["nd"]
        values = plain.decode(parts)
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return values
        if numpy.dtype(dtype).kind not in _NUMPY_KINDS:
            raise plain.NotPlain("no array")
        made = numpy.array(values, dtype=dtype).reshape([int(n) for n in shape])
        return made if is_array else made[()]


def is_behaviour(owner: type, name: Any) -> bool:
    """Does the class itself say what this name does? Then an instance must not: it would answer for the test."""
    if type(name) is not str or name.startswith("__"):
        return True
    known = next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), None)
    return type(known).__name__ != "member_descriptor" and (callable(known) or hasattr(type(known), "__get__"))


def _builtin_exception(name: str) -> type[BaseException] | None:
    import builtins

    found = getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:  # noqa: BLE001 - foreign code raises anything
        return ""
