"""The classes of stand-ins: made here for the classes of the other process, they ask what those hold and do."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.describe import own_parts
from rgopd.verifier.sandbox.standins import MRO, Method, Pickled, Remote

if TYPE_CHECKING:
    from rgopd.verifier.sandbox.mirror import Mirrors


class MirrorMeta(type):
    """The class of the classes made here: calling one, or reading its attributes, asks."""

    _rgopd: Mirrors

    def __new__(meta, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **keywords: Any) -> Any:
        """A class statement of the tests', deriving from one of the program's: the class is made over there."""
        first = next(base for base in bases if isinstance(base, MirrorMeta))
        return first._rgopd.derive(meta, name, bases, body, keywords)

    def __init__(cls, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to do."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance over there."""
        if len(args) == 1 and type(args[0]) is Pickled:
            return cls._rgopd.ask("unpickle", None, value=bytes(args[0]))
        return cls._rgopd.ask("call", cls, args=args, kwargs=kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name == "__dataclass_fields__":
            return dataclass_fields(cls)
        if name == "__abstractmethods__" and (abstract := cls._rgopd.told(cls, "ab")) is not None:
            return frozenset(abstract)
        if name.startswith("_rgopd") or name in ("__abstractmethods__", "__isabstractmethod__"):
            raise AttributeError(name)
        return cls._rgopd.ask("get", cls, name=name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in ("__abstractmethods__", "_abc_impl"):
            type.__setattr__(cls, name, value)
        elif isinstance(value, Method) or id(value) in cls._rgopd.lent:  # what stood there before a patch
            cls._rgopd.ask("restore", cls, name=name)
        elif type(value) in (staticmethod, classmethod, property) or hasattr(type(value), "__set__"):
            cls._rgopd.ask("set_part", cls, name=name, value=part(value))
        else:
            cls._rgopd.ask("set", cls, name=name, value=value)

    def __delattr__(cls, name: str) -> None:
        cls._rgopd.ask("del", cls, name=name)

    __class__ = property(lambda cls: class_of_class(cls))
    __mro__ = property(lambda cls: tuple(kind for kind in MRO(cls) if kind not in _OURS))
    __bases__ = property(lambda cls: tuple(kind for kind in _BASES(cls) if kind not in _OURS) or (object,))
    __dict__ = property(lambda cls: _held(cls))  # type: ignore[misc]
    __annotations__ = property(lambda cls: cls._rgopd.ask("get", cls, name="__annotations__") if _may(cls) else {})

    def __subclasses__(cls) -> list[type]:
        """Those over there, the tests' own with them."""
        if not _may(cls):
            return list(_SUBCLASSES(cls))
        return list(cls._rgopd.ask("method", cls, name="__subclasses__", args=()))

    def __dir__(cls) -> list[str]:
        return list(cls._rgopd.ask("special", cls, name="__dir__", args=()) if _may(cls) else type.__dir__(cls))

    @property
    def __flags__(cls) -> int:
        """With the bit of an abstract class, for `inspect.isabstract`."""
        return _FLAGS(cls) | (_ABSTRACT if cls._rgopd is not None and cls._rgopd.told(cls, "ab") else 0)

    def mro(cls) -> list[type]:
        """With the library's classes that the class over there derives from, for `issubclass`."""
        order, own = type.mro(cls), own_parts(cls)
        if not own.get("_rgopd_data"):  # their layouts may differ
            order[-1:-1] = [kind for kind in own.get("_rgopd_library", ()) if kind not in order]
        return order

    def __instancecheck__(cls, value: Any) -> bool:
        return type.__instancecheck__(cls, value) or MirrorMeta._asks(cls, "isinstance", value)

    def __subclasscheck__(cls, kind: type) -> bool:
        return type.__subclasscheck__(cls, kind) or MirrorMeta._asks(cls, "issubclass", kind)

    def _asks(cls, question: str, value: Any) -> bool:
        """Classes with a say in it, such as protocols and metaclasses, are asked."""
        mirrors = cls._rgopd
        if mirrors is None or mirrors.learning or not mirrors.has_say(cls, value):
            return False
        try:
            return bool(mirrors.ask(question, cls, value=value))
        except plain.NotPlain:
            return False


_BASES: Callable[[Any], tuple[type, ...]] = type.__dict__["__bases__"].__get__
_SUBCLASSES: Callable[[Any], list[type]] = type.__subclasses__
_FLAGS: Callable[[Any], int] = type.__dict__["__flags__"].__get__
_ABSTRACT = 1 << 20
_OURS: tuple[Any, ...] = (MirrorMeta, Remote)
_WRAPPERS: dict[str, Callable[..., Any]] = {
    "static": staticmethod,
    "class": classmethod,
    "property": lambda parts: property(*parts),
}


def _may(cls: Any) -> bool:
    """May a class be asked what it holds? Tests may ask the program's classes, and nobody else."""
    mirrors = cls._rgopd
    return mirrors is not None and mirrors.rules is not None and not mirrors.learning and bool(mirrors.told(cls, "n"))


def _held(cls: Any) -> Any:
    """`__dict__` of a class: what it has over there; of the tests' own, what it has here."""
    mirrors = cls._rgopd
    if not _may(cls) or mirrors.is_derived(cls):
        return own_parts(cls)
    held = {}
    for name, kind, value in mirrors.ask("parts", cls):
        held[name] = _WRAPPERS[kind](value) if kind in _WRAPPERS else value
        if kind in _WRAPPERS:
            mirrors.lent[id(held[name])] = held[name]
    return MappingProxyType(held)


def class_of_class(kind: Any) -> Any:
    """What `type()` of a class gives in the program."""
    meta = type(kind)
    if meta is not MirrorMeta and meta.__name__ != "MirrorMeta":
        return meta  # the program's own, or the tests'
    said = kind._rgopd.told(kind, "mc") if kind._rgopd is not None else None
    if said == "ABCMeta":
        return __import__("abc").ABCMeta
    return __import__("enum").EnumMeta if said else type


def type_of(*args: Any) -> Any:
    """`type()` for tests: of a class of the program's, what it gives there."""
    kind = type(*args)
    return class_of_class(args[0]) if len(args) == 1 and MirrorMeta in MRO(kind) else kind


class Doc:
    """`__doc__` of stand-ins and of their classes."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        if not isinstance(owner, MirrorMeta):
            return None
        return owner._rgopd.ask("get", owner if instance is None else instance, name="__doc__")


def metaclass(bases: tuple[type, ...], of: dict[str, Any] | type) -> type:
    """The program's own metaclass, or one with the special methods that a class itself has, as an Enum's iteration."""
    metas: list[type] = []
    own = (of,) if isinstance(of, type) else ()
    for candidate in (*map(type, bases), *own, MirrorMeta):
        if not any(candidate in MRO(meta) for meta in metas):  # issubclass() would ask
            metas = [meta for meta in metas if meta not in MRO(candidate)] + [candidate]
    if len(metas) == 1 and (own or not of):
        return metas[0]
    return type("MirrorMeta", tuple(metas), {} if isinstance(of, type) else of)


def dataclass_fields(cls: Any) -> Any:
    """For asdict(), fields() and their kin. Raises AttributeError for what is no dataclass."""
    names = cls._rgopd.told(cls, "dc")
    if type(names) is not list:
        raise AttributeError("__dataclass_fields__")
    import dataclasses

    made = dataclasses.make_dataclass("Fields", [str(name) for name in names])
    fields: dict[str, Any] = vars(made)["__dataclass_fields__"]
    for name, kind, default, flags in cls._rgopd.ask("fields", cls):
        field = fields[name]
        field.type, field.default = kind, dataclasses.MISSING if default == () else default[0]
        for flag, value in zip(FIELD_FLAGS, flags, strict=True):
            setattr(field, flag, value)
    return fields


FIELD_FLAGS = ("init", "repr", "hash", "compare", "kw_only")


def part(value: Any) -> tuple[str, Any]:
    """A part of a class statement, in the form that `names.derived` takes."""
    if isinstance(value, staticmethod):
        return "static", value.__func__
    if isinstance(value, classmethod):
        return "class", value.__func__
    if isinstance(value, property):
        return "property", (value.fget, value.fset, value.fdel)
    if hasattr(type(value), "__set__"):  # a descriptor of the tests' own, a PropertyMock
        return "property", (lambda it: value.__get__(it, type(it)), lambda it, new: value.__set__(it, new), None)
    return ("method", value) if type(value).__name__ == "function" else ("value", value)
