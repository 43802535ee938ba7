"""Redraws a display by itself, so that a command that waits or computes still says what it does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from rich.console import Console, RenderableType
from rich.live import Live

from rgopd.cli.display.looks import line, table
from rgopd.cli.display.snapshot import Rates, Snapshot

Mode = Literal["auto", "live", "lines", "off"]
LOOK_S = 0.25


class Screen(Console):
    """A console whose reader may leave (`| head`): rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Called where the error is handled; `Progress` wants to see it."""
        raise


class Progress:
    """A live display on a terminal; elsewhere a line at the start, every `every_s` seconds, and at the end.

    An output that is gone (`| head`) ends the display, never the command. NO_COLOR, TERM=dumb and redirected output
    are respected.

    Args:
        source: gives the moment; called in a thread several times a second.
        mode: `auto` looks at the terminal.
    """

    def __init__(
        self,
        source: Callable[[], Snapshot],
        mode: Mode = "auto",
        every_s: float = 10.0,
        console: Console | None = None,
    ) -> None:
        self.source = source
        self.console = console or Screen()
        self.mode = _chosen(mode, self.console)
        self.every_s = every_s
        self.started = time.monotonic()
        self._rates = Rates()
        self._live: Live | None = None
        self._next_line = 0.0
        self._last = ""
        self._gone = False
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)

    def say(self, text: str) -> None:
        """A line of its own, above the display."""
        with self._lock:
            if not self._gone:
                self._guarded(lambda: self.console.print(text, highlight=False, soft_wrap=True, markup=False))

    def __enter__(self) -> Progress:
        if self.mode == "live":
            self._live = Live(console=self.console, auto_refresh=False, transient=False, redirect_stderr=False)
            self._guarded(self._live.start)
        if self.mode != "off":
            self._tick()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The last moment, and the terminal as it was."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        if self.mode != "off":
            self._tick(last=True)
        if self._live is not None:
            self._guarded(self._live.stop)
            self._live = None

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._tick()

    def _tick(self, last: bool = False) -> None:
        with self._lock:
            if self._gone:
                return
            snapshot = self.source()
            rates = self._rates.update(snapshot.stages)
            for news in snapshot.news:
                self.say(news)
            elapsed = time.monotonic() - self.started
            if self._live is not None:
                self._show(table(snapshot, rates, elapsed, self.console.width))
            elif last or time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + self.every_s
                self.say(line(snapshot, rates, elapsed))

    def _show(self, view: RenderableType) -> None:
        live = self._live
        assert live is not None
        self._guarded(lambda: live.update(view, refresh=True))

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            self._gone = True


def _chosen(mode: Mode, console: Console) -> Mode:
    if mode != "auto":
        return mode
    if console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI"):
        return "live"
    return "lines"
