"""How values arrive. Nothing of the sender's is executed: decoding makes values, stand-ins, or raises NotPlain."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rgopd.verifier.sandbox import describe, hints, library, packaged, plain
from rgopd.verifier.sandbox.shared import replace
from rgopd.verifier.sandbox.tables import ATOMS, NUMPY_KINDS, Tables, builtin_exception

_MOST_CLASSES = 2000


class Incoming(Tables):
    """The decoding half."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
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
            "rx": self._pattern,
            "ty": lambda v: hints.decode(v["ty"], self.decode),
        }

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the parts of a message are decoded. What the other side no longer needs is forgotten after it, since
        the message itself may still speak of it."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1
            if not self._reading:
                self.shared.left()

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
            self.shared.leave(message.get("d", ()))
        except plain.MALFORMED as error:
            raise plain.NotPlain(f"malformed message: {type(error).__name__}: {error}"[:200]) from None

    def _learn(self, number: Any, description: Any) -> None:
        if self.mirrors.count >= _MOST_CLASSES:
            raise plain.NotPlain("too many classes")
        bases = [self.decode(base) for base in description["b"]]
        meta = self.decode(description["t"]) if "t" in description else None
        self.mirrors.learn(int(number), description, [base for base in bases if isinstance(base, type)], meta)

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
        elif (tag := next(iter(form))) in packaged.DECODERS:
            value = packaged.empty(tag, form[tag])
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
            tag = next(iter(form))
            if tag in packaged.DECODERS:
                packaged.replace(value, packaged.DECODERS[tag](form[tag], self.decode))
                return
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
        if value is None or kind in ATOMS or kind is int:
            return value
        if kind is not dict:
            raise plain.NotPlain("malformed value")
        try:
            for tag, decoder in self._decoders.items():
                if tag in value:
                    return decoder(value)
            ((tag, body),) = value.items()
            if tag in packaged.DECODERS:
                return packaged.DECODERS[tag](body, self.decode)
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
            found = library.TYPES.get(name) or builtin_exception(name) or library.class_of(module, name)
        else:
            found = library.class_of(module, name) or packaged.class_of(module, name)
        if found is None:
            raise plain.NotPlain(f"no class {module}.{name}"[:100])
        return found

    def _known_exception(self, form: Any) -> BaseException:
        module, name, base = map(str, form["X"])
        if self.shared.sign > 0 and module.partition(".")[0] in sys.stdlib_module_names:
            __import__(module)  # in the program's process; beside the tests nothing is imported for a program
        kind = library.loaded(module, name) if module else self.by_value.get(name)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = builtin_exception(base) or Exception
        arguments = tuple([self.decode(x) for x in form["a"]])
        made: BaseException
        try:
            made = kind(*arguments) if kind.__module__ == "builtins" else kind.__new__(kind, *arguments)
        except (TypeError, ValueError):  # UnicodeDecodeError and its kin want other arguments
            made = kind.__new__(kind)
        if not isinstance(made, OSError):
            made.args = arguments
        for field, part in form["v"]:
            if field == "__notes__" or not is_behaviour(kind, field):
                made.__dict__[field] = self.decode(part)
        return self._caused(made, form)

    def _caused(self, error: BaseException, form: Any) -> BaseException:
        if form.get("c") is not None:
            cause = self.decode(form["c"])
            error.__cause__ = cause if isinstance(cause, BaseException) else None
        if form.get("s") is True:
            error.__suppress_context__ = True
        elif form.get("o") is not None and isinstance(context := self.decode(form["o"]), BaseException):
            error.__context__ = context
        return error

    def _pattern(self, form: Any) -> Any:
        if self.shared.sign < 0:  # a program's pattern is tried in its own process: it may take for ever
            raise plain.NotPlain("no pattern")
        import re

        text, flags = form["rx"]
        return re.compile(self.decode(text), int(flags))

    def _array(self, form: Any) -> Any:
        dtype, shape, parts, is_array = form["nd"]
        values = plain.decode(parts)
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return values
        if numpy.dtype(dtype).kind not in NUMPY_KINDS:
            raise plain.NotPlain("no array")
        made = numpy.array(values, dtype=dtype).reshape([int(n) for n in shape])
        return made if is_array else made[()]


def is_behaviour(owner: type, name: Any) -> bool:
    """Does the class itself say what this name does? Then an instance must not: it would answer for the test."""
    if type(name) is not str or name.startswith("__"):
        return True
    known = next((describe.own_parts(base)[name] for base in owner.__mro__ if name in describe.own_parts(base)), None)
    return type(known).__name__ != "member_descriptor" and (callable(known) or hasattr(type(known), "__get__"))
