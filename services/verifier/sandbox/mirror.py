"""Stand-ins for what lives in the other process.

For each class over there a class is made here with the same name and bases and exactly the special methods that it
has there, so that `len(x)`, `for`, `with`, `sorted`, `except`, `isinstance` and `type(x).__name__` work, or fail, as
they would there. A stand-in asks; it decides nothing but who it is.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, Protocol

from rgopd.verifier.sandbox import library, plain
from rgopd.verifier.sandbox.classes import Doc, MirrorMeta, metaclass, part
from rgopd.verifier.sandbox.describe import SPECIALS
from rgopd.verifier.sandbox.lifetimes import Lifetimes
from rgopd.verifier.sandbox.making import named_tuple, value_type, with_data
from rgopd.verifier.sandbox.standins import (
    ATTRIBUTES,
    Ask,
    Asked,
    BoundMethod,
    Method,
    Remote,
    bound,
    driven,
    generator,
    teach_enums,
)


class Rules(Protocol):
    """Which special methods of a stand-in ask, and which are decided here."""

    def special(self, name: str) -> Callable[..., Any] | None:
        """The method of a stand-in for that name; None: the one that asks."""


_SPOOFED: dict[str, type] = {
    "function": types.FunctionType,
    "builtin_function_or_method": types.BuiltinFunctionType,
    "method": types.MethodType,
    "async_generator": types.AsyncGeneratorType,
    "code": types.CodeType,
    "property": property,
}


_BASES = {
    "enum": ("Enum", "Flag"),
    "threading": ("Thread", "Timer"),
    "html.parser": ("HTMLParser",),
    "json.encoder": ("JSONEncoder",),
    "json.decoder": ("JSONDecoder",),
    "ast": ("NodeVisitor", "NodeTransformer"),
    "string": ("Formatter",),
    "logging": ("Handler", "Formatter", "Filter"),
    "argparse": ("ArgumentParser", "Action"),
    "cmd": ("Cmd",),
    "contextlib": ("ContextDecorator",),
}
"""Classes of the library that `issubclass` finds. No others: code of theirs would run beside the tests on what a
program says that it is."""


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
        self.numbers: dict[int, int] = {}  # id of a stand-in -> number over there
        self._inner: list[Any] = []
        self.learning = False
        self.lifetimes: Lifetimes | None = None
        self.pause: Callable[[], Any] | None = None
        self._deriving: type | None = None
        self._derived: set[type] = set()
        self.lent: dict[int, Any] = {}  # static methods, properties that `__dict__` of a class has given out

    @property
    def count(self) -> int:
        """Classes so far."""
        return len(self._classes)

    def home(self, value: Any) -> dict[str, Any] | None:
        """What a stand-in is called over there; None: it is no stand-in."""
        number = self.numbers.get(id(value))
        if number is not None:
            return {"H": number}
        if type(value) is BoundMethod:
            _, owner, name = value._rgopd_of
            return {"H": self.numbers[id(owner)], "at": name}
        return None

    def of_class(self, number: int) -> type:
        """The class made for one over there. KeyError when it was not described."""
        return self._classes[number]

    def has_say(self, kind: type, value: Any) -> bool:
        """Has a class over there to be asked whether the value is one of its own?"""
        number = self.numbers.get(id(kind))
        return number is not None and (self.home(value) is not None or "say" in self._descriptions[number])

    def describes(self, kind: type) -> dict[str, Any]:
        """The description from which a class was made."""
        return self._descriptions[self.numbers[id(kind)]]

    def told(self, kind: type, what: str) -> Any:
        """A part of the description from which a class was made; None where there is none."""
        number = self.numbers.get(id(kind))
        return self._descriptions.get(number, {}).get(what) if number is not None else None

    def _keep(self, number: int, value: Any) -> Any:
        self._known[number] = value
        self.numbers[id(value)] = number
        return value

    # --- classes

    def learn(self, number: int, description: dict[str, Any], bases: list[type], meta: Any = None) -> None:
        """Make the class for a description; `meta`: its metaclass. Raises NotPlain for what cannot be a class."""
        if number in self._classes:
            raise plain.NotPlain("a class described twice")
        if self._deriving is not None and description["n"] == self._deriving.__name__:
            self._classes[number], self._descriptions[number] = self._keep(number, self._deriving), description
            self._deriving = None
            return
        name = str(description["n"])[:200]
        body = self._body(description)
        if isinstance(meta, type) and issubclass(meta, MirrorMeta):
            body["_rgopd_meta"] = meta
        try:
            made = self._make(name, self._bases(description, bases), body)
        except (TypeError, ValueError):  # layouts that do not go together, a name that is none
            made = self._make("object", self._bases(description, []), body | {"_rgopd_meta": {}})
        self._classes[number] = self._keep(number, made)
        self._descriptions[number] = description
        self.learning = True  # to register asks what else it is
        for module, of in description.get("lib", ()):
            known = library.loaded(str(module), str(of))
            if hasattr(known, "_abc_impl"):
                known.register(made)
        self.learning = False

    def _body(self, description: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"_rgopd": self, "__module__": str(description.get("m", ""))[:200]}
        body["__doc__"] = Doc()
        body["_rgopd_meta"] = {n: self._special(n) for n in description["meta"] if n in SPECIALS}
        is_meta = description.get("kind") == "metaclass"
        if "plain" not in description or "x" in description:
            body["__init__"] = Method("__init__")
        for name in map(str, description["f"]):
            if not name.startswith(("__", "_rgopd")) and not (is_meta and hasattr(MirrorMeta, name)):
                body[name] = Method(name)
        for name in description["s"]:
            if name in SPECIALS:
                body[name] = self._special(name)
        if description.get("unhashable"):
            body["__hash__"] = None
        if is_meta:
            body.pop("__init__", None)  # classes of it are made by MirrorMeta
        spoofed = _SPOOFED.get(str(description.get("kind")))
        if spoofed is not None:
            body["__class__"] = property(lambda self: spoofed)
        if description.get("kind") in ("Pattern", "Match"):  # re.sub(pattern, ...) wants to see one
            body["__class__"] = property(lambda self: getattr(__import__("re"), str(description["kind"])))
        if description.get("kind") == "io":
            body["__class__"] = property(lambda self: getattr(__import__("_io"), str(description["n"])))
        if "fields" in description:
            body["_field_defaults"] = Asked("_field_defaults")
        if spoofed is types.FunctionType:
            body["__get__"] = bound
        return self._with_library(body, description)

    @staticmethod
    def _with_library(body: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
        """Classes of the library for `issubclass`; what they would say of an instance is asked all the same."""
        found = [library.loaded(str(module), str(name)) for module, name in description.get("lib", ())]
        plainly = [
            kind for kind in found if isinstance(kind, type) and kind.__name__ in _BASES.get(kind.__module__, ())
        ]
        names = {name for kind in plainly for name in vars(kind) if not name.startswith("__")}
        shadows = {name: Asked(name) for name in names - body.keys()}
        if description.get("kind") == "enum" and "enum" in sys.modules:
            teach_enums(sys.modules["enum"].EnumMeta)
        return shadows | body | {"_rgopd_library": plainly, "_rgopd_known": found, "_rgopd_data": "d" in description}

    def _bases(self, description: dict[str, Any], bases: list[type]) -> tuple[type, ...]:
        wanted: type | None = None
        if description.get("kind") == "metaclass":
            return tuple(bases) if any(issubclass(base, MirrorMeta) for base in bases) else (*bases, MirrorMeta)
        if "x" in description:
            wanted = self._exception_base(*description["x"])
        elif "fields" in description:
            wanted = named_tuple(str(description["n"]), [str(name) for name in description["fields"]])
        elif "d" in description:
            wanted = value_type(str(description["d"]))
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
        if any(issubclass(base, MirrorMeta) for base in bases):
            pass  # it asks by itself
        elif not any(issubclass(base, Remote) for base in bases):
            taken = ["__getattr__", "__copy__", "__deepcopy__"]
            if not any(issubclass(base, BaseException) for base in bases):  # the interpreter sets theirs
                taken += ["__setattr__", "__delattr__"]
            body = {key: Remote.__dict__[key] for key in taken} | body
        elif not any(issubclass(base, BaseException) for base in bases):
            body = {"__dict__": ATTRIBUTES} | body
        if "__hash__" not in body and "__eq__" in body:
            body = body | {"__hash__": bases[0].__hash__}
        return type.__new__(metaclass(bases, body.pop("_rgopd_meta")), name, bases, body)

    def _special(self, name: str) -> Callable[..., Any]:
        ruled = self.rules.special(name) if self.rules is not None else None
        if ruled is not None:
            return ruled
        if name == "__call__":
            return lambda *args, **kwargs: self.ask("call", args[0], args=args[1:], kwargs=kwargs)
        if name == "__await__":
            return lambda instance: driven(self.ask, instance, self.pause).__await__()
        if name in ("__exit__", "__aexit__"):
            return lambda instance, kind, error, trace: self.ask("special", instance, name=name, args=(error,))
        return lambda instance, *args: self.ask("special", instance, name=name, args=args)

    def derive(
        self, meta: type, name: str, bases: tuple[type, ...], body: dict[str, Any], keywords: dict[str, Any]
    ) -> type:
        """Make a class that derives from stand-ins, over there and here. Here its methods run.

        Args:
            keywords: of the class statement, for `__init_subclass__` or a metaclass.
        """
        made: type = type.__new__(meta, name, bases, {"_rgopd": self, **body})
        own = {key: part(value) for key, value in body.items() if key not in _OF_STATEMENTS}
        self._derived.add(made)
        self._deriving = made
        try:
            self.ask("derive", bases, name=name, value=(own, keywords))
        finally:
            self._deriving = None
        return made

    def is_derived(self, kind: type) -> bool:
        """Was the class made by the tests?"""
        return kind in self._derived

    # --- instances

    def instance(self, number: int, class_number: int, data: Any) -> Any:
        """The stand-in for an object; `data` where its class derives from a value's."""
        if number in self._known:
            return self._known[number]
        if self.lifetimes is not None and (alive := self.lifetimes.get(number)) is not None:
            return alive
        kind, description = self._classes[class_number], self._descriptions[class_number]
        if "d" in description:
            made = with_data(kind, str(description["d"]), data)
            return self._keep(number, made) if isinstance(made, kind) else made
        wrapper = {"generator": generator, "coroutine": driven}.get(str(description.get("kind")))
        if wrapper is None and self.lifetimes is not None:
            return self.lifetimes.keep(number, object.__new__(kind))
        made = self._keep(number, object.__new__(kind))
        if wrapper is None:
            return made
        self._inner.append(made)  # its id has to stay its own
        if wrapper is driven:
            return self._keep(number, driven(self.ask, made, self.pause))
        return self._keep(number, generator(self.ask, made))

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
