"""Runs what a test file defines for pytest: functions and classes, with fixtures, parameters and marks."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rgopd.verifier.testfiles.fixtures import BUILTIN
from rgopd.verifier.testfiles.names import Failed, Fixture, Skipped, XFailed

_SHARED = ("class", "module", "package", "session")


class Broken(Exception):
    """The test file itself cannot be run."""


NO_VERDICT = (Broken, Skipped)
"""What says nothing of the program when it leaves a test file; a program can raise neither."""


def run(namespace: dict[str, Any], made: list[Any], text: str) -> int:
    """Run the tests among `made`; how many there were. Raises what the first that fails raises, Broken."""
    fixtures = {**BUILTIN, **_fixtures(namespace.values())}
    count = 0
    with ExitStack() as stack:
        shared: dict[Any, Any] = {}
        for value in made:
            name = getattr(value, "__name__", "")
            if type(value) is types.FunctionType and name.startswith("test"):
                count += Test(value, None, fixtures, shared, stack, text, _marks(namespace)).run()
            elif _is_class_of_tests(value):
                count += _run_class(value, fixtures, shared, text, _marks(namespace))
    return count


def _is_class_of_tests(value: Any) -> bool:
    if not (isinstance(value, type) and value.__name__.startswith("Test") and value.__module__ == "checker"):
        return False
    return not any(base.__name__ == "TestCase" for base in value.__mro__)


def _run_class(case: type, fixtures: dict[str, Any], shared: dict[Any, Any], text: str, marks: list[Any]) -> int:
    fixtures = {**fixtures, **_fixtures([inspect.getattr_static(case, name) for name in dir(case)])}
    count = 0
    marks = [*marks, *getattr(case, "pytestmark", ())]
    with ExitStack() as stack:
        made: Any = case
        _hook(made, "setup_class")
        for name in sorted((n for n in dir(case) if n.startswith("test")), key=_order(case)):
            function = inspect.getattr_static(case, name)
            function = getattr(function, "__func__", function)
            if type(function) is types.FunctionType:
                count += Test(function, case, fixtures, dict(shared), stack, text, marks).run()
        _hook(made, "teardown_class")
    return count


def _order(case: type) -> Any:
    names = [name for kind in reversed(case.__mro__) for name in vars(kind)]
    return names.index


def _hook(owner: Any, name: str, *args: Any) -> None:
    hook = getattr(owner, name, None)
    if hook is not None:
        hook(*args[: len(inspect.signature(hook).parameters)])


def _fixtures(values: Any) -> dict[str, Any]:
    return {value.__name__: value for value in values if type(value) is Fixture}


def _marks(namespace: dict[str, Any]) -> list[Any]:
    marks = dict.get(namespace, "pytestmark", [])
    return list(marks) if isinstance(marks, (list, tuple)) else [marks]


class Test:
    """One test function, or a method of `case`, with all its parameters."""

    def __init__(
        self,
        function: Any,
        case: type | None,
        fixtures: dict[str, Any],
        shared: dict[Any, Any],
        stack: ExitStack,
        text: str,
        marks: list[Any],
    ) -> None:
        self.function, self.case, self.fixtures = function, case, fixtures
        self.shared, self.stack, self.text = shared, stack, text
        self.marks = [*marks, *getattr(function, "pytestmark", ())]
        own = list(inspect.signature(function).parameters.values())
        if case is not None and not isinstance(inspect.getattr_static(case, function.__name__, None), staticmethod):
            own = own[1:]
        self.wanted = [p.name for p in own if p.default is p.empty and p.kind in (0, 1, 3)]
        if hasattr(function, "patchings"):  # mock's: it passes the mocks itself
            self.wanted = self.wanted[sum(patch.attribute_name is None for patch in function.patchings) :]

    def run(self) -> int:
        """All its parameter sets; how many."""
        rows = list(self._rows())
        known = {name for row, _ in rows for name in row} | self.fixtures.keys() | {"request"}
        unknown = [name for name in self.wanted if name not in known]
        mentions = len(re.findall(rf"(?<!def )\b{re.escape(self.function.__name__)}\b", self.text))
        if self.case is None and mentions and (unknown or not self.wanted):
            return 0  # the test file calls it itself
        if unknown:
            raise Broken(f"fixture {unknown[0]!r} not found")
        for row, marks in rows:
            self._attempt(row, [*self.marks, *marks])
        return len(rows)

    def _rows(self) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """The product of its parametrizations, and of the parameters of its fixtures."""
        axes = [list(_axis(mark)) for mark in self.marks if mark.name == "parametrize"]
        given = {name for axis in axes for row, _, _ in axis for name in row}
        for name in self._closure():
            if name not in given and getattr(self.fixtures.get(name), "params", None) is not None:
                axes.append([({name: value}, {name}, []) for value in self.fixtures[name].params])
        for parts in itertools.product(*axes):
            row: dict[str, Any] = {}
            for values, indirect, _ in parts:
                row |= {key: Parameter(value) if key in indirect else value for key, value in values.items()}
            yield row, [mark for _, _, marks in parts for mark in marks]

    def _closure(self) -> list[str]:
        """Fixtures that are used, those that fixtures use too."""
        todo, found = [*self._automatic(), *self.wanted], list[str]()
        while todo:
            name = todo.pop(0)
            if name not in found:
                found.append(name)
                made = self.fixtures.get(name)
                todo += inspect.signature(made.function).parameters if type(made) is Fixture else ()
        return found

    def _automatic(self) -> list[str]:
        used = [name for mark in self.marks if mark.name == "usefixtures" for name in mark.args]
        return [name for name, made in self.fixtures.items() if getattr(made, "autouse", False)] + used

    def _attempt(self, row: dict[str, Any], marks: list[Any]) -> None:
        if any(mark.name == "skip" or (mark.name == "skipif" and _applies(mark)) for mark in marks):
            return
        try:
            self._once(row)
        except (Skipped, XFailed):
            return
        except (Exception, Failed):
            if not any(mark.name == "xfail" and _applies(mark) for mark in marks):
                raise

    def _once(self, row: dict[str, Any]) -> None:
        with ExitStack() as stack:
            instance = self.case() if self.case is not None else None
            values: dict[str, Any] = {}
            request = Request(self, row, stack, values, instance)
            for name in self._automatic():
                request.getfixturevalue(name)
            if instance is not None:
                _hook(instance, "setup_method", self.function)
                stack.callback(_hook, instance, "teardown_method", self.function)
            arguments = {name: request.getfixturevalue(name) for name in self.wanted}
            bound = (instance,) if instance is not None and self._takes_self() else ()
            outcome = self.function(*bound, **arguments)
            if inspect.iscoroutine(outcome):
                import asyncio

                asyncio.run(outcome)

    def _takes_self(self) -> bool:
        return not isinstance(inspect.getattr_static(self.case, self.function.__name__), staticmethod)


class Parameter:
    """A value that goes to a fixture as `request.param`."""

    def __init__(self, value: Any) -> None:
        self.value = value.values[0] if hasattr(value, "is_param") else value


class Request:
    """`request` of one run of a test or of a fixture."""

    def __init__(
        self, test: Test, row: dict[str, Any], stack: ExitStack, values: dict[str, Any], instance: Any
    ) -> None:
        self._test, self._row, self._stack, self._values = test, row, stack, values
        self.instance, self.cls, self.function = instance, test.case, test.function
        self.node = types.SimpleNamespace(name=test.function.__name__)
        self.param: Any = None

    def addfinalizer(self, finalizer: Any) -> None:
        """To be called when what it belongs to ends."""
        self._stack.callback(finalizer)

    def getfixturevalue(self, name: str) -> Any:
        """What a test gets for that argument."""
        given = self._row.get(name, self)
        if given is not self and type(given) is not Parameter:
            return given
        if name == "request":
            return self
        if name in self._values:
            return self._values[name]
        made = self._test.fixtures.get(name)
        if made is None:
            raise Broken(f"fixture {name!r} not found")
        is_shared = getattr(made, "scope", "function") in _SHARED and type(given) is not Parameter
        if is_shared and name in self._test.shared:
            return self._test.shared[name]
        value = self._make(made, given, self._test.stack if is_shared else self._stack)
        (self._test.shared if is_shared else self._values)[name] = value
        return value

    def _make(self, made: Any, given: Any, stack: ExitStack) -> Any:
        if type(made) is not Fixture:
            return stack.enter_context(made())
        request = Request(self._test, self._row, stack, self._values, self.instance)
        request.param = given.value if type(given) is Parameter else None
        parameters = list(inspect.signature(made.function).parameters)
        bound = [self.instance] if parameters[:1] == ["self"] else []
        arguments = {n: request if n == "request" else self.getfixturevalue(n) for n in parameters[len(bound) :]}
        if inspect.iscoroutinefunction(made.function) or inspect.isasyncgenfunction(made.function):
            raise Broken("async fixtures are not supported")
        if inspect.isgeneratorfunction(made.function):
            return stack.enter_context(contextmanager(made.function)(*bound, **arguments))
        return made.function(*bound, **arguments)


def _axis(mark: Any) -> Iterator[tuple[dict[str, Any], set[str], list[Any]]]:
    """(names -> values, those of them that go to fixtures, marks) for each of a parametrization's rows."""
    names, rows = (*mark.args, mark.kwargs.get("argnames"), mark.kwargs.get("argvalues"))[:2]
    if len(mark.args) < 2:
        names, rows = mark.kwargs.get("argnames", mark.args[0] if mark.args else ()), mark.kwargs["argvalues"]
    names = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
    indirect = mark.kwargs.get("indirect", mark.args[2] if len(mark.args) > 2 else False)
    to_fixtures = set(names if indirect is True else indirect or ())
    for row in rows:
        marks = row.marks if hasattr(row, "is_param") else []
        values = row.values if hasattr(row, "is_param") else (row,) if len(names) == 1 else row
        yield dict(zip(names, values, strict=True)), to_fixtures, marks


def _applies(mark: Any) -> bool:
    """Its condition, if it has one."""
    conditions = mark.args or ((mark.kwargs["condition"],) if "condition" in mark.kwargs else ())
    if not conditions:
        return True
    names = {"sys": sys, "os": os, "platform": __import__("platform")}
    return any(eval(c, names) if isinstance(c, str) else c for c in conditions)
