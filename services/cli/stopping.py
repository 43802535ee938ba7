"""Ctrl-C and SIGTERM: what they end says one line, and the exit code that shells and clusters know (128 + signal)."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rgopd.common.errors import ConfigError

LOCK = ".rgopd-up.lock"


class Stopped(BaseException):
    """SIGTERM or SIGINT. Not an Exception: nothing may take it for an error and go on."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def raise_stopped(number: int, _: FrameType | None = None) -> None:
    """A signal handler."""
    raise Stopped(number)


def stop_on_signals() -> None:
    """Both unwind the command, so that what it started is stopped and what it locked is freed. (Of a KeyboardInterrupt
    typer makes a silent 130.)

    Not for the services: they drain, and while they load the default ends them at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, raise_stopped)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background job
        signal.signal(signal.SIGINT, raise_stopped)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder: a second `rgopd up` there would write over the first one's files.

    Raises:
        ConfigError: another holds it; says which process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"a run works in {folder} already (process {who}): stop that one, or name another train.output_dir"
            ) from error
        except OSError:  # a file system without locks: the embedded Redis and the trainer have their own
            pass
        else:
            os.pwrite(handle, f"{os.getpid()}\n".encode().ljust(20), 0)
        yield
    finally:
        os.close(handle)
