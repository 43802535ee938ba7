"""The classes of stand-ins for what lives in the other process. A stand-in asks; it decides nothing but who it is."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, cast

from rgopd.verifier.sandbox import plain

if TYPE_CHECKING:
    from rgopd.verifier.sandbox.mirror import Mirrors

Ask = Callable[..., Any]
"""ask(operation, target, **details): what the other side answers."""


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
            return cls._rgopd.dataclass_fields(cls)
        if name == "__abstractmethods__" and (abstract := cls._rgopd.told(cls, "ab")) is not None:
            return frozenset(abstract)
        if name.startswith("_rgopd") or name in ("__abstractmethods__", "__isabstractmethod__"):
            raise AttributeError(name)
        return cls._rgopd.ask("get", cls, name=name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name in ("__abstractmethods__", "_abc_impl"):
            type.__setattr__(cls, name, value)
        elif isinstance(value, Method):  # what stood there before a patch
            cls._rgopd.ask("restore", cls, name=name)
        else:
            cls._rgopd.ask("set", cls, name=name, value=value)

    def __delattr__(cls, name: str) -> None:
        cls._rgopd.ask("del", cls, name=name)

    __class__ = property(lambda cls: class_of_class(cls))
    __mro__ = property(lambda cls: tuple(kind for kind in _MRO(cls) if kind not in _OURS))
    __bases__ = property(lambda cls: tuple(kind for kind in _BASES(cls) if kind not in _OURS) or (object,))

    @property
    def __flags__(cls) -> int:
        """With the bit of an abstract class, for `inspect.isabstract`."""
        return _FLAGS(cls) | (_ABSTRACT if cls._rgopd is not None and cls._rgopd.told(cls, "ab") else 0)

    def mro(cls) -> list[type]:
        """With the library's classes that the class over there derives from, for `issubclass`."""
        order = type.mro(cls)
        if not cls.__dict__.get("_rgopd_data"):  # their layouts may differ
            order[-1:-1] = [kind for kind in cls.__dict__.get("_rgopd_library", ()) if kind not in order]
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


_MRO: Callable[[Any], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_BASES: Callable[[Any], tuple[type, ...]] = type.__dict__["__bases__"].__get__
_FLAGS: Callable[[Any], int] = type.__dict__["__flags__"].__get__
_ABSTRACT = 1 << 20


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
    return class_of_class(args[0]) if len(args) == 1 and MirrorMeta in _MRO(kind) else kind


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
        return type(self), (Pickled(self._rgopd.ask("pickle", self)),)


_OURS: tuple[Any, ...] = (MirrorMeta, Remote)
ATTRIBUTES = property(lambda self: self._rgopd.ask("get", self, name="__dict__"))
"""`__dict__` of stand-ins, also for vars()."""


class Pickled(bytes):
    """An object over there, pickled over there; called with one, its class makes the object again."""

    def __reduce__(self) -> Any:
        return Pickled, (bytes(self),)


class Asked:
    """In a class made here: an attribute that the library's class has too; what it is, is asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any) -> Any:
        return owner._rgopd.ask("get", owner if instance is None else instance, name=self.name)

    def __set__(self, instance: Any, value: Any) -> None:
        instance._rgopd.ask("set", instance, name=self.name, value=value)


def teach_enums(meta: Any) -> None:
    """Let enumerations of the library know stand-ins of theirs, those too that are numbers or texts."""
    if "__subclasscheck__" not in vars(meta):

        def is_kind(cls: type, kind: type) -> bool:
            return type.__subclasscheck__(cls, kind) or cls in getattr(kind, "_rgopd_known", ())

        meta.__subclasscheck__ = is_kind
        meta.__instancecheck__ = lambda cls, value: type.__instancecheck__(cls, value) or is_kind(cls, type(value))


def bound(function: Any, instance: Any, owner: Any = None) -> Any:
    """`__get__` of a function over there, where a class of the tests holds it."""
    return function if instance is None else types.MethodType(function, instance)


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
        kind = type(instance)
        if self.owner is not kind and self.owner in _MRO(kind) and self is not _found(kind, self.name):  # by super()
            function = BoundMethod(mirrors, self.owner, self.name)
            return lambda *args, **kwargs: function(instance, *args, **kwargs)
        return BoundMethod(mirrors, instance, self.name)

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner


def _found(kind: type, name: str) -> Any:
    return next((vars(base)[name] for base in _MRO(kind) if name in vars(base)), None)


def metaclass(bases: tuple[type, ...], of: dict[str, Any] | type) -> type:
    """The program's own metaclass, or one with the special methods that a class itself has, as an Enum's iteration."""
    metas: list[type] = []
    own = (of,) if isinstance(of, type) else ()
    for candidate in (*map(type, bases), *own, MirrorMeta):
        if not any(candidate in _MRO(meta) for meta in metas):  # issubclass() would ask
            metas = [meta for meta in metas if meta not in _MRO(candidate)] + [candidate]
    if len(metas) == 1 and (own or not of):
        return metas[0]
    return type("MirrorMeta", tuple(metas), {} if isinstance(of, type) else of)


def generator(ask: Ask, there: Any) -> Generator[Any, Any, Any]:
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


async def driven(ask: Ask, there: Any, pause: Callable[[], Any] | None = None) -> Any:
    """Await an object over there. Its loop runs by slices, so that coroutines of one program wait for each other.

    Args:
        pause: instead of a moment's sleep.
    """
    import asyncio

    task, rounds = ask("task", there), 0
    try:
        while True:
            rounds += 1
            await (pause() if pause is not None else asyncio.sleep(0 if rounds < _HASTY else 0.002))
            done, value = ask("run", task)
            if done:
                return value
    except asyncio.CancelledError:
        ask("cancel", task)
        raise


_HASTY = 100  # rounds without a pause
