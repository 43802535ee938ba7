"""The fixtures that pytest brings, by name: each makes a context manager. `mocker` is pytest-mock's."""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rgopd.verifier.testfiles import names


@contextmanager
def _tmp_path() -> Iterator[Any]:
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


class _Folders:
    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def mktemp(self, basename: str, numbered: bool = True) -> Any:
        folder = self.stack.enter_context(_tmp_path()) / basename
        folder.mkdir()
        return folder

    def getbasetemp(self) -> Any:
        return self.stack.enter_context(_tmp_path())


@contextmanager
def _tmp_path_factory() -> Iterator[_Folders]:
    with ExitStack() as stack:
        yield _Folders(stack)


class _Captured:
    """capsys: the standard streams, held."""

    def __init__(self) -> None:
        self.was = sys.stdout, sys.stderr
        self.start()

    def start(self) -> None:
        import io

        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()

    def readouterr(self) -> Any:
        from collections import namedtuple

        streams: Any = sys.stdout, sys.stderr
        texts = [stream.getvalue() for stream in streams]
        for stream in streams:
            stream.seek(0)
            stream.truncate()
        return namedtuple("CaptureResult", "out err")(*texts)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        held, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), self.was
        yield
        sys.stdout, sys.stderr = held


@contextmanager
def _capsys() -> Iterator[_Captured]:
    captured = _Captured()
    try:
        yield captured
    finally:
        sys.stdout, sys.stderr = captured.was


class _MonkeyPatch:
    def __init__(self) -> None:
        self._undo: list[Any] = []

    def setattr(self, target: Any, name: Any, value: Any = inspect.Parameter.empty, raising: bool = True) -> None:
        """Of an object, or by a dotted name."""
        if isinstance(target, str):
            path, _, attribute = target.rpartition(".")
            target, name, value = _found(path), attribute, name
        elif raising and not hasattr(target, name):
            raise AttributeError(f"{target!r} has no attribute {name!r}")
        self._set(target, name, value)

    def _set(self, target: Any, name: str, value: Any) -> None:
        was = target.__dict__.get(name, self) if isinstance(target, type) else getattr(target, name, self)
        inherited = getattr(target, name, self)

        def back() -> None:
            if was is self:
                delattr(target, name)
            if was is not self or (inherited is not self and not hasattr(target, name)):
                setattr(target, name, inherited if was is self else was)

        self._undo.append(back)
        setattr(target, name, value)

    def delattr(self, target: Any, name: Any = None, raising: bool = True) -> None:
        """Of an object, or by a dotted name."""
        if isinstance(target, str):
            path, _, name = target.rpartition(".")
            target = _found(path)
        if hasattr(target, name):
            was = getattr(target, name)
            self._undo.append(lambda: setattr(target, name, was))
            delattr(target, name)
        elif raising:
            raise AttributeError(name)

    def setitem(self, dic: Any, name: Any, value: Any) -> None:
        """In a mapping."""
        was = dic.get(name, self)
        self._undo.append((lambda: dic.pop(name, None)) if was is self else (lambda: dic.__setitem__(name, was)))
        dic[name] = value

    def delitem(self, dic: Any, name: Any, raising: bool = True) -> None:
        """In a mapping."""
        if name in dic:
            was = dic.pop(name)
            self._undo.append(lambda: dic.__setitem__(name, was))
        elif raising:
            raise KeyError(name)

    def setenv(self, name: str, value: Any, prepend: str | None = None) -> None:
        """In the environment."""
        if prepend and name in os.environ:
            value = f"{value}{prepend}{os.environ[name]}"
        self.setitem(os.environ, name, str(value))

    def delenv(self, name: str, raising: bool = True) -> None:
        """In the environment."""
        self.delitem(os.environ, name, raising)

    def syspath_prepend(self, path: Any) -> None:
        """Before what is imported from."""
        sys.path.insert(0, str(path))
        self._undo.append(lambda: sys.path.remove(str(path)))

    def chdir(self, path: Any) -> None:
        """The working folder."""
        was = os.getcwd()
        self._undo.append(lambda: os.chdir(was))
        os.chdir(path)

    def undo(self) -> None:
        """All of it."""
        while self._undo:
            self._undo.pop()()

    @classmethod
    @contextmanager
    def context(cls) -> Iterator[_MonkeyPatch]:
        """Undone at its end."""
        made = cls()
        try:
            yield made
        finally:
            made.undo()


def _found(path: str) -> Any:
    parts = path.split(".")
    found: Any = sys.modules.get(parts[0]) or __import__(parts[0])
    for index, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            __import__(".".join(parts[:index]))
        found = getattr(found, part)
    return found


class _Logs:
    def __init__(self) -> None:
        import logging

        self.records: list[Any] = []
        self.handler = logging.Handler()
        self.handler.emit = self.records.append  # type: ignore[method-assign,assignment]
        self.root = logging.getLogger()
        self.levels: list[Any] = [(self.root, self.root.level)]
        self.root.addHandler(self.handler)

    text = property(lambda self: "".join(f"{r.levelname:8} {r.name}:{r.getMessage()}\n" for r in self.records))
    messages = property(lambda self: [record.getMessage() for record in self.records])
    record_tuples = property(lambda self: [(r.name, r.levelno, r.getMessage()) for r in self.records])

    def clear(self) -> None:
        self.records.clear()

    def set_level(self, level: Any, logger: str | None = None) -> None:
        import logging

        found = logging.getLogger(logger)
        self.levels.append((found, found.level))
        found.setLevel(level)

    @contextmanager
    def at_level(self, level: Any, logger: str | None = None) -> Iterator[None]:
        self.set_level(level, logger)
        yield
        found, was = self.levels.pop()
        found.setLevel(was)


@contextmanager
def _caplog() -> Iterator[_Logs]:
    logs = _Logs()
    try:
        yield logs
    finally:
        logs.root.removeHandler(logs.handler)
        for logger, level in reversed(logs.levels):
            logger.setLevel(level)


@contextmanager
def _recwarn() -> Iterator[Any]:
    with names.WarningsRecorder() as recorder:
        yield recorder


@contextmanager
def _mocker() -> Iterator[Any]:
    """pytest-mock's, which test files use as if it were pytest's."""
    from unittest import mock

    with ExitStack() as stack:

        def started(patch: Any) -> Any:
            return lambda *args, **kwargs: stack.enter_context(patch(*args, **kwargs))

        def spy(target: Any, name: str) -> Any:
            return made.patch.object(target, name, side_effect=getattr(target, name))

        made: Any = types.SimpleNamespace(**{n: getattr(mock, n) for n in mock.__all__}, spy=spy, stub=mock.MagicMock)
        made.patch = started(mock.patch)
        made.patch.object, made.patch.dict = started(mock.patch.object), started(mock.patch.dict)
        made.patch.multiple = started(mock.patch.multiple)
        yield made


BUILTIN: dict[str, Any] = {
    "tmp_path": _tmp_path,
    "tmpdir": _tmp_path,
    "tmp_path_factory": _tmp_path_factory,
    "capsys": _capsys,
    "capfd": _capsys,
    "monkeypatch": _MonkeyPatch.context,
    "caplog": _caplog,
    "recwarn": _recwarn,
    "mocker": _mocker,
}
names.MonkeyPatch = _MonkeyPatch
