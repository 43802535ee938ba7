"""Stand-ins for what lives in the other process, and what is in their classes. A stand-in asks; it decides nothing but
who it is."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, cast

from rgopd.verifier.sandbox.describe import own_parts

if TYPE_CHECKING:
    from rgopd.verifier.sandbox.mirror import Mirrors

Ask = Callable[..., Any]
"""ask(operation, target, **details): what the other side answers."""


MRO: Callable[[Any], tuple[type, ...]] = type.__dict__["__mro__"].__get__


class Slot:
    """A special method that every stand-in has. Of the class itself it is what any class has: no function of ours."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = function.__name__

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None and hasattr(object, self.name):
            return getattr(object, self.name)
        return self.function if instance is None else functools.partial(self.function, instance)


class Remote:
    """What all stand-ins for objects are. Holds nothing: who it is stands in `Mirrors`."""

    _rgopd = cast(Any, None)  # not by an annotation: instances would have `__annotations__`

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_rgopd"):
            raise AttributeError(name)
        if name == "__dataclass_fields__":
            return getattr(type(self), name)
        return self._rgopd.ask("get", self, name=name)

    @Slot
    def __setattr__(self, name: str, value: Any) -> None:
        self._rgopd.ask("set", self, name=name, value=value)

    @Slot
    def __delattr__(self, name: str) -> None:
        self._rgopd.ask("del", self, name=name)

    @Slot
    def __copy__(self) -> Any:
        return self._rgopd.ask("special", self, name="__copy__", args=())

    @Slot
    def __deepcopy__(self, memo: Any) -> Any:
        return self._rgopd.ask("special", self, name="__deepcopy__", args=())

    @Slot
    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (Pickled(self._rgopd.ask("pickle", self)),)


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
        if self.owner is not kind and self.owner in MRO(kind) and self is not _found(kind, self.name):  # by super()
            function = BoundMethod(mirrors, self.owner, self.name)
            return lambda *args, **kwargs: function(instance, *args, **kwargs)
        return BoundMethod(mirrors, instance, self.name)

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner


def _found(kind: type, name: str) -> Any:
    return next((own_parts(base)[name] for base in MRO(kind) if name in own_parts(base)), None)


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
