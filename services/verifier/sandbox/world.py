"""What a process has beside its values, where tests and program would share it if they were one process.

The service reads off the tests which of it they touch; both sides keep only that in step. A change goes with the next
message, as plain data, and is taken over before anything else is done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from rgopd.verifier.sandbox.library import REPLACED

_MISSING: Any = object()
_MOST_SAID = 1000
_getcwd, _chdir = os.getcwd, os.chdir  # tests put others in their places


class World:
    """One side's.

    Args:
        aspects: "random", "numpy": seeds that tests set; "environ", "argv", "cwd"; "warnings", "logging": what a
            program says that way.
        of_tests: this is the side of the tests: seeds and arguments go from here to there, what is said comes back.
    """

    def __init__(self, aspects: list[str], of_tests: bool) -> None:
        self._of_tests = of_tests
        self._seeded: set[str] = set()
        self._before: dict[str, Any] = {}
        self._said: list[Any] = []
        shared: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
            "environ": (lambda: dict(os.environ), _set_environment),
            "cwd": (_folder, _enter),
        }
        to_program: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
            "argv": (lambda: [str(part) for part in sys.argv], lambda value: setattr(sys, "argv", value)),
            "random": (lambda: self._seed("random", _random_state), _set_random_state),
            "numpy": (lambda: self._seed("numpy", _numpy_state), _set_numpy_state),
        }
        both = {name: pair for name, pair in shared.items() if name in aspects}
        one = {name: pair for name, pair in to_program.items() if name in aspects}
        self._give = {**both, **(one if of_tests else {})}
        self._take = {**both, **({} if of_tests else one)}
        self.says = [name for name in ("warnings", "logging") if name in aspects]
        for name in one if of_tests else ():
            self._notice_seeds(name)
        self._before = {name: give() for name, (give, _) in self._give.items()}
        if "logging" in self.says and not of_tests:
            self._listen()

    @property
    def is_empty(self) -> bool:
        """Nothing is shared."""
        return not (self._give or self._take or self.says)

    def changes(self) -> dict[str, Any]:
        """What has changed here since the other side last knew."""
        changed = {}
        for name, (give, _) in self._give.items():
            now = give()
            if now != self._before[name] or name in self._seeded:
                changed[name] = self._before[name] = now
        self._seeded = set()
        if self._said:
            changed["said"], self._said = self._said, []
        return changed

    def adopt(self, changes: Any) -> None:
        """Take over what has changed there. Raises ValueError where that makes no sense."""
        if type(changes) is not dict:
            raise ValueError("no changes")
        for name, value in changes.items():
            if name in self._take:
                self._take[name][1](value)
                if name in self._before:
                    self._before[name] = self._give[name][0]()
            elif name == "said" and self._of_tests:
                for kind, *parts in value:
                    said: Any = {"warning": _warn, "record": _log}[kind]
                    said(*parts)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """On the program's side, while a request is carried out."""
        if "warnings" not in self.says or self._of_tests:
            yield
            return
        import warnings

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                self._said += [["warning", _name(w.category), str(w.message), w.lineno] for w in caught[:_MOST_SAID]]

    # --- what is said

    def _listen(self) -> None:
        """Every record of the program's, whether it would have been shown or not: the tests know their levels."""
        import logging

        shown = logging.Logger.isEnabledFor

        def handle(logger: Any, record: Any) -> None:
            if len(self._said) < _MOST_SAID:
                text = record.getMessage()
                self._said.append(["record", record.name, record.levelno, text, shown(logger, record.levelno)])
            if shown(logger, record.levelno):
                usual(logger, record)

        kind: Any = logging.Logger
        usual, kind.handle = kind.handle, handle
        kind.isEnabledFor = lambda logger, level: True

    # --- seeds

    def _notice_seeds(self, name: str) -> None:
        """A seed set anew may give the state that was."""
        if name not in ("random", "numpy"):
            return
        try:
            module: Any = __import__("random") if name == "random" else __import__("numpy").random
        except ImportError:
            return

        def noticed(function: Callable[..., Any]) -> Callable[..., Any]:
            def seed(*args: Any, **kwargs: Any) -> Any:
                self._seeded.add(name)
                self._before.setdefault(f"{name} seeded", True)
                return function(*args, **kwargs)

            return seed

        for setter in ("seed", "setstate", "set_state"):
            if hasattr(module, setter):
                setattr(module, setter, noticed(getattr(module, setter)))

    def _seed(self, name: str, state: Callable[[], Any]) -> Any:
        """The state, where the tests have set it: otherwise each side draws for itself."""
        return state() if f"{name} seeded" in self._before else None


# --- environment and folder


def _set_environment(new: dict[str, str]) -> None:
    for name in os.environ.keys() - new.keys():
        del os.environ[name]
    os.environ.update(new)


def _folder() -> str:
    try:
        return _getcwd()
    except OSError:  # it has been removed
        return ""


def _enter(folder: str) -> None:
    if type(folder) is str and folder:
        try:
            _chdir(folder)
        except OSError:
            return


# --- random numbers


def _random_state() -> Any:
    import random

    version, numbers, gauss = random.getstate()
    return [version, b"".join(n.to_bytes(4, "little") for n in numbers).hex(), gauss]


def _set_random_state(state: Any) -> None:
    import random

    if state is not None:
        version, numbers, gauss = state
        raw = bytes.fromhex(numbers)
        words = tuple(int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4))
        random.setstate((version, words, gauss))


def _numpy_state() -> Any:
    numpy = sys.modules["numpy"]
    name, keys, *rest = numpy.random.get_state()
    return [name, keys.tobytes().hex(), *rest]


def _set_numpy_state(state: Any) -> None:
    if state is not None and "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        name, keys, *rest = state
        numpy.random.set_state((name, numpy.frombuffer(bytes.fromhex(keys), numpy.uint32), *rest))


# --- what a program says


def _name(category: type) -> str:
    return next(kind.__name__ for kind in category.__mro__ if kind.__module__ == "builtins")


def _warn(category: Any, text: Any, line: Any) -> None:
    import builtins
    import warnings

    kind = getattr(builtins, str(category), None)
    if isinstance(kind, type) and issubclass(kind, Warning):
        warnings.warn_explicit(str(text), kind, "solution.py", int(line))


def _log(name: Any, level: Any, text: Any, shown: Any) -> None:
    import logging

    logger: logging.Logger | None = logging.getLogger(str(name))
    found, level = logger, int(level)
    while found is not None and not found.level:
        found = found.parent
    is_set = found is not None and (found is not logging.root or found.level != logging.WARNING)
    assert logger is not None
    if logger.isEnabledFor(level) if is_set else shown:
        logger.handle(logger.makeRecord(str(name), level, "solution.py", 0, str(text), (), None))


# --- names that tests put something else in the place of


_WATCHED: set[str] = set()
"""Their names. Being of the class is not enough: the import system makes new modules of the class that `sys` has."""


class Watched(ModuleType):
    """A module that remembers which of its names were replaced."""

    def __setattr__(self, name: str, value: Any) -> None:
        self._note(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._note(name)
        super().__delattr__(name)

    def _note(self, name: str) -> None:
        own = self.__dict__
        if own.get("__name__") in _WATCHED:
            REPLACED.setdefault((own["__name__"], name), own.get(name, _MISSING))


def watch(names: list[str]) -> None:
    """From now on know what is replaced in these modules, as far as they exist."""
    for name in names:
        try:
            __import__(name)
        except ImportError:
            continue
        module = sys.modules[name]
        if type(module) in (ModuleType, Watched):
            module.__class__ = Watched
            _WATCHED.add(module.__name__)


def replaced() -> Iterator[tuple[str, Any]]:
    """ "module:name" of what is not what it was, and what is there now."""
    for (module, name), first in REPLACED.items():
        now = sys.modules[module].__dict__.get(name, _MISSING)
        if now is not first and now is not _MISSING:
            yield f"{module}:{name}", now


@contextmanager
def in_place(things: dict[str, Any]) -> Iterator[None]:
    """While one request is carried out: what the tests have replaced is replaced here too."""
    before = []
    for path, thing in things.items():
        module_name, _, name = path.partition(":")
        try:
            __import__(module_name)
        except ImportError:
            continue
        module = sys.modules[module_name]
        before.append((module, name, module.__dict__.get(name, _MISSING)))
        if before[-1][2] is not _MISSING:
            REPLACED.setdefault((module.__name__, name), before[-1][2])
        setattr(module, name, thing)
    try:
        yield
    finally:
        for module, name, thing in reversed(before):
            if thing is _MISSING:
                delattr(module, name)
            else:
                setattr(module, name, thing)
