"""What test files take from pytest: `import pytest` beside the tests gives this module, which behaves as pytest
documents it. pytest itself would bring its plugins, its terminal and a third of a second into every check."""

from __future__ import annotations

import math
import re
import sys
from types import SimpleNamespace
from typing import Any


class OutcomeException(BaseException):
    """Not an Exception: `except Exception` in a test does not take it."""


class Failed(OutcomeException):
    """The test says that it has failed."""


class Skipped(OutcomeException):
    """The test says that it does not apply."""


class XFailed(Failed):
    """The test says that it was to fail."""


def fail(reason: str = "", pytrace: bool = True, msg: str = "") -> None:
    """The test has failed."""
    raise Failed(reason or msg)


def skip(reason: str = "", *, allow_module_level: bool = False, msg: str = "") -> None:
    """The test does not apply."""
    raise Skipped(reason or msg)


def xfail(reason: str = "") -> None:
    """The test was to fail, and does."""
    raise XFailed(reason)


def exit(reason: str = "", returncode: int | None = None) -> None:
    """Ends the test."""
    raise Failed(reason)


for _raise, _kind in ((fail, Failed), (skip, Skipped), (xfail, XFailed), (exit, Failed)):
    _raise.Exception = _kind  # type: ignore[attr-defined]


def importorskip(modname: str, minversion: str | None = None, reason: str | None = None) -> Any:
    """A module, or the end of the test."""
    try:
        __import__(modname)
    except ImportError as error:
        raise Skipped(reason or str(error)) from None
    return sys.modules[modname]


def main(args: Any = None, plugins: Any = None) -> int:
    """The runner finds the tests afterwards anyway."""
    return 0


# --- exceptions and warnings


class ExceptionInfo:
    """What `raises` has caught."""

    value: Any = None

    @property
    def type(self) -> Any:
        """The exception's class."""
        return type(self.value)

    @property
    def typename(self) -> str:
        """Its name."""
        return type(self.value).__name__

    @property
    def tb(self) -> Any:
        """Its traceback."""
        return self.value.__traceback__

    def exconly(self, tryshort: bool = False) -> str:
        """Class and text."""
        return f"{self.typename}: {self.value}"

    def errisinstance(self, exc: Any) -> bool:
        """Is it one of these?"""
        return isinstance(self.value, exc)

    def match(self, regexp: Any) -> bool:
        """Assert that the text, with its notes, matches."""
        said = "\n".join([str(self.value), *getattr(self.value, "__notes__", ())])
        assert re.search(regexp, said), f"{regexp!r} does not match {said!r}"
        return True

    def group_contains(self, expected: Any, *, match: Any = None, depth: int | None = None) -> bool:
        """Does the group hold such an exception?"""

        def within(error: Any, level: int) -> bool:
            if hasattr(error, "exceptions"):
                return any(within(e, level + 1) for e in error.exceptions) or (level > 0 and fits(error, level))
            return level > 0 and fits(error, level)

        def fits(error: Any, level: int) -> bool:
            right = depth in (None, level) and isinstance(error, expected)
            return right and (match is None or re.search(match, str(error)) is not None)

        return within(self.value, 0)


class RaisesContext:
    """`with raises(...) as info`."""

    def __init__(self, expected: Any, match: Any = None, check: Any = None) -> None:
        self.expected, self.pattern, self.check = expected, match, check
        self.info = ExceptionInfo()

    def __enter__(self) -> ExceptionInfo:
        return self.info

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if error is None:
            raise Failed(f"DID NOT RAISE {self.expected!r}")
        if not isinstance(error, self.expected):
            return False
        self.info.value = error
        if self.pattern is not None:
            self.info.match(self.pattern)
        assert self.check is None or self.check(error), f"{error!r} does not pass the check"
        return True


def raises(expected_exception: Any = BaseException, *args: Any, **kwargs: Any) -> Any:
    """A context, or the call itself: `raises(ValueError, f, 1)`."""
    if not args:
        return RaisesContext(expected_exception, kwargs.get("match"), kwargs.get("check"))
    with RaisesContext(expected_exception) as info:
        args[0](*args[1:], **kwargs)
    return info


class WarningsRecorder:
    """`with warns(...) as record`, and the fixture recwarn."""

    def __init__(self, expected: Any = None, match: Any = None) -> None:
        import warnings

        self.expected, self.pattern = expected, match
        self.catching = warnings.catch_warnings(record=True)
        self.list: list[Any] = []

    def __enter__(self) -> WarningsRecorder:
        import warnings

        self.list = self.catching.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.catching.__exit__(kind, error, trace)
        if kind is None and self.expected is not None and not any(map(self._fits, self.list)):
            raise Failed(f"DID NOT WARN {self.expected!r}")

    def _fits(self, said: Any) -> bool:
        if not issubclass(said.category, self.expected):
            return False
        return self.pattern is None or re.search(self.pattern, str(said.message)) is not None

    def pop(self, cls: Any = Warning) -> Any:
        """Take out the first of that class."""
        return self.list.pop(next(i for i, said in enumerate(self.list) if issubclass(said.category, cls)))

    def clear(self) -> None:
        """Forget all."""
        self.list.clear()

    def __len__(self) -> int:
        return len(self.list)

    def __iter__(self) -> Any:
        return iter(self.list)

    def __getitem__(self, index: int) -> Any:
        return self.list[index]


def warns(expected_warning: Any = Warning, *args: Any, match: Any = None, **kwargs: Any) -> Any:
    """A context, or the call itself."""
    recorder = WarningsRecorder(expected_warning, match)
    if not args:
        return recorder
    with recorder:
        return args[0](*args[1:], **kwargs)


def deprecated_call(*args: Any, **kwargs: Any) -> Any:
    """`warns` for what is deprecated."""
    return warns((DeprecationWarning, PendingDeprecationWarning, FutureWarning), *args, **kwargs)


# --- numbers


class approx:
    """Equal to what it holds within a tolerance, item by item. Only plain numbers are compared so: what is a number
    is not for the tested program's objects to say."""

    __array_ufunc__ = None
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> None:
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def __eq__(self, actual: Any) -> bool:
        return self._equal(actual, self.expected)

    def __ne__(self, actual: Any) -> bool:
        return not self == actual

    def _equal(self, actual: Any, expected: Any) -> bool:
        actual, expected = _listed(actual), _listed(expected)
        if isinstance(expected, dict):
            same = isinstance(actual, dict) and set(actual) == set(expected)
            return same and all(self._equal(actual[key], part) for key, part in expected.items())
        if isinstance(expected, (list, tuple)):
            same = isinstance(actual, (list, tuple)) and len(actual) == len(expected)
            return same and all(map(self._equal, actual, expected))
        if isinstance(actual, (list, tuple)):
            return not isinstance(expected, (str, bytes)) and all(self._equal(part, expected) for part in actual)
        mine = _number(actual)
        return self._near(mine, expected) if mine is not None and _number(expected) is not None else actual == expected

    def _near(self, actual: Any, expected: Any) -> bool:
        if actual == expected:
            return True
        if actual != actual or expected != expected:
            return self.nan_ok and actual != actual and expected != expected
        if math.isinf(abs(actual)) or math.isinf(abs(expected)):
            return False
        absolute = 1e-12 if self.abs is None else self.abs
        relative = (1e-6 if self.abs is None else 0) if self.rel is None else self.rel
        kind: Any = type(expected)
        if kind.__name__ in ("Decimal", "Fraction"):
            absolute, relative, actual = kind(str(absolute)), kind(str(relative)), kind(actual)
        elif type(actual).__name__ in ("Decimal", "Fraction"):
            actual = type(expected)(actual)
        return bool(abs(actual - expected) <= max(absolute, relative * abs(expected)))


def _listed(value: Any) -> Any:
    """Arrays and scalars of numpy, series of pandas, as plain values."""
    if type(value).__module__.partition(".")[0] in ("numpy", "pandas") and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _number(value: Any) -> Any:
    """The plain number that a value is, without its class; None: it is none."""
    if isinstance(value, bool):
        return None
    for kind in (int, float, complex):
        if isinstance(value, kind):
            return kind.__add__(value, kind(0))  # type: ignore[operator]
    return value if f"{type(value).__module__}.{type(value).__name__}" in _EXACT else None


_EXACT = ("decimal.Decimal", "fractions.Fraction")


# --- fixtures and marks


class Fixture:
    """What the runner has to know of a function that makes something for tests."""

    def __init__(self, function: Any, scope: Any, params: Any, autouse: bool, ids: Any, name: str | None) -> None:
        self.function, self.scope, self.autouse = function, scope, autouse
        self.params = None if params is None else list(params)
        self.__name__ = name or function.__name__
        self.__wrapped__ = function

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as pytest does."""
        raise Failed(f"fixture {self.__name__!r} called directly")


def fixture(
    fixture_function: Any = None,
    *,
    scope: Any = "function",
    params: Any = None,
    autouse: bool = False,
    ids: Any = None,
    name: str | None = None,
) -> Any:
    """Decorate a function that makes what tests take by its name."""

    def made(function: Any) -> Fixture:
        return Fixture(function, scope, params, autouse, ids, name)

    return made if fixture_function is None else made(fixture_function)


yield_fixture = fixture


class Mark:
    """A mark with its arguments; as a decorator it is added to a function or class."""

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs or {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Decorate, or take arguments."""
        is_decorated = len(args) == 1 and not kwargs and (isinstance(args[0], type) or hasattr(args[0], "__code__"))
        if not is_decorated:
            return Mark(self.name, (*self.args, *args), {**self.kwargs, **kwargs})
        args[0].pytestmark = [*vars(args[0]).get("pytestmark", ()), self]
        return args[0]

    def with_args(self, *args: Any, **kwargs: Any) -> Mark:
        """The mark with more arguments."""
        return Mark(self.name, (*self.args, *args), {**self.kwargs, **kwargs})


class MarkGenerator:
    """`mark.anything`."""

    def __getattr__(self, name: str) -> Mark:
        if name.startswith("__"):
            raise AttributeError(name)
        return Mark(name)


mark = MarkGenerator()


def param(*values: Any, id: Any = None, marks: Any = ()) -> Any:
    """A row of a parametrization, with an id or marks."""
    return SimpleNamespace(values=values, id=id, marks=[marks] if isinstance(marks, Mark) else list(marks), is_param=1)


FixtureRequest: Any = Any
MonkeyPatch: Any = Any
CaptureFixture = LogCaptureFixture = TempPathFactory = Any
__version__ = "8.0"
