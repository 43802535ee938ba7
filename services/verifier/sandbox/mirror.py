"""Stand-ins for what lives in the other process.

For each class over there a class is made here with the same name and bases and exactly the special methods that it
has there, so that `len(x)`, `for`, `with`, `sorted`, `except`, `isinstance` and `type(x).__name__` work, or fail, as
they would there. A stand-in asks; it decides nothing but who it is.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Generator
from typing import Any, Protocol, cast

from rgopd.verifier.sandbox import library, plain
from rgopd.verifier.sandbox.describe import SPECIALS

Ask = Callable[..., Any]
"""ask(operation, target, **details): what the other side answers."""


class Rules(Protocol):
    """Which special methods of a stand-in ask, and which are decided here."""

    def special(self, name: str) -> Callable[..., Any] | None:
        """The method of a stand-in for that name; None: the one that asks."""


class MirrorMeta(type):
    """The class of the classes made here: calling one, or reading its attributes, asks."""

    _rgopd: Mirrors

    def __new__(meta, name: str, bases: tuple[type, ...], body: dict[str, Any], **_: Any) -> Any:
        """A class statement of the tests', deriving from one of the program's: the class is made over there."""
        return next(base for base in bases if isinstance(base, MirrorMeta))._rgopd.derive(meta, name, bases, body)

    def __init__(cls, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to do."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance over there."""
        return cls._rgopd.ask("call", cls, args=args, kwargs=kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name == "__dataclass_fields__":
            return cls._rgopd.dataclass_fields(cls)
        if name.startswith("_rgopd") or name in ("__abstractmethods__", "__isabstractmethod__"):
            raise AttributeError(name)
        return cls._rgopd.ask("get", cls, name=name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in ("__abstractmethods__", "_abc_impl"):
            type.__setattr__(cls, name, value)
        else:
            cls._rgopd.ask("set", cls, name=name, value=value)


class Doc:
    """`__doc__` of stand-ins and of their classes."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        if not isinstance(owner, MirrorMeta):
            return None
        return owner._rgopd.ask("get", owner if instance is None else instance, name="__doc__")


class Remote:
    """What all stand-ins for objects are. Holds nothing: who it is stands in `Mirrors`."""

    _rgopd = cast(Any, None)  # not by an annotation: instances would have `__annotations__`

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_rgopd"):
            raise AttributeError(name)
        if name == "__dataclass_fields__":
            return getattr(type(self), name)
        return self._rgopd.ask("get", self, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._rgopd.ask("set", self, name=name, value=value)

    def __delattr__(self, name: str) -> None:
        self._rgopd.ask("del", self, name=name)

    def __copy__(self) -> Any:
        return self._rgopd.ask("special", self, name="__copy__", args=())

    def __deepcopy__(self, memo: Any) -> Any:
        return self._rgopd.ask("special", self, name="__deepcopy__", args=())

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"an object of the program's class {type(self).__name__} cannot be pickled")


# The attributes of an object over there, also for vars()
_DICT = property(lambda self: self._rgopd.ask("get", self, name="__dict__"))


class BoundMethod:
    """A method of an object over there. Found and called in one go."""

    def __init__(self, mirrors: Mirrors, owner: Any, name: str) -> None:
        self._rgopd_of = (mirrors, owner, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it over there."""
        mirrors, _, _ = self._rgopd_of
        return mirrors.ask("call", self, args=args, kwargs=kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_rgopd"):
            raise AttributeError(name)
        mirrors, owner, _ = self._rgopd_of
        return owner if name == "__self__" else mirrors.ask("get", self, name=name)

    def __eq__(self, other: object) -> bool:
        if type(other) is not BoundMethod:
            return NotImplemented
        mine, theirs = self._rgopd_of, other._rgopd_of
        return mine[1] is theirs[1] and mine[2] == theirs[2]

    def __hash__(self) -> int:
        return hash((id(self._rgopd_of[1]), self._rgopd_of[2]))

    __class__ = property(lambda self: types.MethodType)


class Method:
    """In a class made here: a method, found on instances without asking."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.owner: Any = None

    def __get__(self, instance: Any, owner: Any) -> Any:
        mirrors = owner._rgopd
        if instance is None:
            return mirrors.ask("get", owner, name=self.name)
        if mirrors.is_derived(type(instance)):  # found beyond the tests' own class, perhaps by super()
            function = BoundMethod(mirrors, self.owner, self.name)
            return lambda *args, **kwargs: function(instance, *args, **kwargs)
        return BoundMethod(mirrors, instance, self.name)

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner


_SPOOFED = {
    "function": types.FunctionType,
    "builtin_function_or_method": types.BuiltinFunctionType,
    "method": types.MethodType,
    "async_generator": types.AsyncGeneratorType,
}
_VALUE_TYPES = (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_DATES = {
    "date": ("year", "month", "day"),
    "datetime": ("year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo"),
    "time": ("hour", "minute", "second", "microsecond", "tzinfo"),
    "timedelta": ("days", "seconds", "microseconds"),
}


class Mirrors:
    """All stand-ins of one process, each made once: `is` holds.

    Args:
        ask: asks the other side.
        rules: what is not asked.
    """

    def __init__(self, ask: Ask, rules: Rules | None = None) -> None:
        self.ask = ask
        self.rules = rules
        self._classes: dict[int, type] = {}
        self._descriptions: dict[int, dict[str, Any]] = {}
        self._known: dict[int, Any] = {}  # number over there -> stand-in
        self._numbers: dict[int, int] = {}  # id of a stand-in -> number over there
        self._inner: list[Any] = []
        self._deriving: type | None = None
        self._derived: set[type] = set()

    @property
    def count(self) -> int:
        """Classes so far."""
        return len(self._classes)

    def home(self, value: Any) -> dict[str, Any] | None:
        """What a stand-in is called over there; None: it is no stand-in."""
        number = self._numbers.get(id(value))
        if number is not None:
            return {"H": number}
        if type(value) is BoundMethod:
            _, owner, name = value._rgopd_of
            return {"H": self._numbers[id(owner)], "at": name}
        return None

    def of_class(self, number: int) -> type:
        """The class made for one over there. KeyError when it was not described."""
        return self._classes[number]

    def describes(self, kind: type) -> dict[str, Any]:
        """The description from which a class was made."""
        return self._descriptions[self._numbers[id(kind)]]

    def _keep(self, number: int, value: Any) -> Any:
        self._known[number] = value
        self._numbers[id(value)] = number
        return value

    # --- classes

    def learn(self, number: int, description: dict[str, Any], bases: list[type]) -> None:
        """Make the class for a description. Raises NotPlain for what cannot be a class."""
        if number in self._classes:
            raise plain.NotPlain("a class described twice")
        if self._deriving is not None and description["n"] == self._deriving.__name__:
            self._classes[number], self._descriptions[number] = self._keep(number, self._deriving), description
            self._deriving = None
            return
        name = str(description["n"])[:200]
        body = self._body(description)
        try:
            made = self._make(name, self._bases(description, bases), body)
        except (TypeError, ValueError):  # layouts that do not go together, a name that is none
            made = self._make("object", self._bases(description, []), body)
        self._classes[number] = self._keep(number, made)
        self._descriptions[number] = description

    def _body(self, description: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"_rgopd": self, "__module__": str(description.get("m", ""))[:200]}
        body["__doc__"] = Doc()
        body["_rgopd_meta"] = [name for name in description["meta"] if name in SPECIALS]
        for name in ("__init__", *map(str, description["f"])):
            body[name] = Method(name)
        for name in description["s"]:
            if name in SPECIALS:
                body[name] = self._special(name)
        if description.get("unhashable"):
            body["__hash__"] = None
        spoofed = _SPOOFED.get(str(description.get("kind")))
        if description.get("kind") == "enum" and "enum" in sys.modules:  # isinstance(x, Enum)
            spoofed = sys.modules["enum"].Enum(str(description["n"]), [])
        if spoofed is not None:
            body["__class__"] = property(lambda self: spoofed)
        return body

    def _bases(self, description: dict[str, Any], bases: list[type]) -> tuple[type, ...]:
        wanted: type | None = None
        if "x" in description:
            wanted = self._exception_base(*description["x"])
        elif "fields" in description:
            wanted = _named_tuple(str(description["n"]), [str(name) for name in description["fields"]])
        elif "d" in description:
            wanted = _value_type(str(description["d"]))
        if wanted is None:
            return (*bases, Remote) if not any(issubclass(base, Remote) for base in bases) else tuple(bases)
        return tuple(bases) if any(issubclass(base, wanted) for base in bases) else (*bases, wanted)

    @staticmethod
    def _exception_base(module: str, name: str, base: str) -> type:
        known = library.loaded(module, name)
        if not (isinstance(known, type) and issubclass(known, BaseException)):
            known = library.loaded("builtins", base)
        return known if isinstance(known, type) and issubclass(known, BaseException) else Exception

    def _make(self, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
        if not any(issubclass(base, Remote) for base in bases):
            taken = ["__getattr__", "__copy__", "__deepcopy__"]
            if not any(issubclass(base, BaseException) for base in bases):  # the interpreter sets theirs
                taken += ["__setattr__", "__delattr__"]
            body = {key: Remote.__dict__[key] for key in taken} | body
        elif not any(issubclass(base, BaseException) for base in bases):
            body = {"__dict__": _DICT} | body
        if "__hash__" not in body and "__eq__" in body:
            body = body | {"__hash__": bases[0].__hash__}
        return type.__new__(_metaclass(bases, body.pop("_rgopd_meta")), name, bases, body)

    def _special(self, name: str) -> Callable[..., Any]:
        ruled = self.rules.special(name) if self.rules is not None else None
        if ruled is not None:
            return ruled
        if name == "__call__":
            return lambda *args, **kwargs: self.ask("call", args[0], args=args[1:], kwargs=kwargs)
        if name == "__await__":
            return lambda instance: _driven(self.ask, instance).__await__()
        if name in ("__exit__", "__aexit__"):
            return lambda instance, kind, error, trace: self.ask("special", instance, name=name, args=(error,))
        return lambda instance, *args: self.ask("special", instance, name=name, args=args)

    def derive(self, meta: type, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
        """Make a class that derives from stand-ins, over there and here. Here its methods run."""
        made: type = type.__new__(meta, name, bases, {"_rgopd": self, **body})
        own = {key: _part(value) for key, value in body.items() if key not in _OF_STATEMENTS}
        self._derived.add(made)
        self._deriving = made
        try:
            self.ask("derive", bases, name=name, value=own)
        finally:
            self._deriving = None
        return made

    def is_derived(self, kind: type) -> bool:
        """Was the class made by the tests?"""
        return kind in self._derived

    def dataclass_fields(self, kind: type) -> Any:
        """For asdict() and its kin."""
        names = self.describes(kind).get("dc")
        if type(names) is not list:
            raise AttributeError("__dataclass_fields__")
        import dataclasses

        return vars(dataclasses.make_dataclass(kind.__name__, [str(name) for name in names]))["__dataclass_fields__"]

    # --- instances

    def instance(self, number: int, class_number: int, data: Any) -> Any:
        """The stand-in for an object; `data` where its class derives from a value's."""
        if number in self._known:
            return self._known[number]
        kind, description = self._classes[class_number], self._descriptions[class_number]
        if "d" in description:
            made = _with_data(kind, str(description["d"]), data)
            return self._keep(number, made) if isinstance(made, kind) else made
        made = self._keep(number, object.__new__(kind))
        wrapper = {"generator": _generator, "coroutine": _driven}.get(str(description.get("kind")))
        if wrapper is None:
            return made
        self._inner.append(made)  # its id has to stay its own
        return self._keep(number, wrapper(self.ask, made))

    def exception(self, number: int, class_number: int, args: tuple[Any, ...]) -> BaseException:
        """The stand-in for an exception."""
        known = self._known.get(number)
        if isinstance(known, BaseException):
            return known
        kind = self._classes[class_number]
        if not issubclass(kind, BaseException):
            raise plain.NotPlain("no exception")
        made = kind.__new__(kind)
        made.args = args
        return self._keep(number, made)  # type: ignore[no-any-return]


_OF_STATEMENTS = ("__module__", "__qualname__", "__classcell__", "__doc__", "__annotations__", "__orig_bases__")


def _part(value: Any) -> tuple[str, Any]:
    """A part of a class statement, in the form that `names.derived` takes."""
    if isinstance(value, staticmethod):
        return "static", value.__func__
    if isinstance(value, classmethod):
        return "class", value.__func__
    if isinstance(value, property):
        return "property", (value.fget, value.fset, value.fdel)
    return ("method", value) if type(value).__name__ == "function" else ("value", value)


def _metaclass(bases: tuple[type, ...], specials: list[str]) -> type:
    """One with the special methods that the class itself has, as an Enum has iteration."""
    metas: list[type] = []
    for candidate in (*map(type, bases), MirrorMeta):
        if not any(issubclass(meta, candidate) for meta in metas):
            metas = [meta for meta in metas if not issubclass(candidate, meta)] + [candidate]
    if len(metas) == 1 and not specials:
        return metas[0]
    return type("MirrorMeta", tuple(metas), {name: _of_class(name) for name in specials})


def _of_class(name: str) -> Callable[..., Any]:
    return lambda kind, *args: kind._rgopd.ask("special", kind, name=name, args=args)


def _named_tuple(name: str, fields: list[str]) -> type:
    from collections import namedtuple

    make: Any = namedtuple  # its arguments are to be literals
    made: type = make(name, fields)
    return made


def _value_type(name: str) -> type:
    module, _, rest = name.rpartition(".")
    found = library.class_of(module, rest) if module else library.TYPES.get(rest)
    if found is None or (not module and found not in _VALUE_TYPES):
        raise plain.NotPlain(f"no value class {name}"[:100])
    return found


def _with_data(kind: type, base: str, data: Any) -> Any:
    """An instance with that data; the data alone where the class cannot be filled from outside."""
    value_type: Any = _value_type(base)
    if data is None:  # mutable, filled later
        return value_type.__new__(kind)
    if not isinstance(data, value_type):
        raise plain.NotPlain(f"not the data of a {base}")
    names = _DATES.get(value_type.__name__)
    if names is not None:
        return value_type.__new__(kind, *(getattr(data, name) for name in names))
    if base in ("bool", "uuid.UUID") or "." in base and base not in ("decimal.Decimal", "fractions.Fraction"):
        return data
    return value_type.__new__(kind, data)


def _generator(ask: Ask, there: Any) -> Generator[Any, Any, Any]:
    """A generator that is another one's stand-in."""

    def items() -> Generator[Any, Any, Any]:
        name = "send"
        args: tuple[Any, ...] = (None,)
        while True:
            try:
                item = ask("method", there, name=name, args=args)
            except StopIteration as stop:
                return stop.value
            try:
                args = ((yield item),)
                name = "send"
            except GeneratorExit:
                ask("finally", there, name="close", args=())
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by whoever holds it
                name, args = "throw", (error,)

    return items()


async def _driven(ask: Ask, there: Any) -> Any:
    """Await an object over there. Its loop runs by slices, so that coroutines of one program wait for each other."""
    import asyncio

    task = ask("task", there)
    try:
        while True:
            await asyncio.sleep(0)
            done, value = ask("run", task)
            if done:
                return value
    except asyncio.CancelledError:
        ask("cancel", task)
        raise


__all__ = ["BoundMethod", "MirrorMeta", "Mirrors", "Remote", "Rules"]
