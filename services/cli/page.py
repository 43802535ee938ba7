"""The live page beside a run that `rgopd up` started: a convenience that must never cost the run anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rgopd.cli.processes import Child, Restarts
from rgopd.common.embedded import free_port
from rgopd.common.errors import ConfigError
from rgopd.common.server import bind

MAX_RESTARTS = 3


class Page:
    """`rgopd watch` of one run as a child process. Whatever becomes of it, the run goes on."""

    def __init__(self, folder: Path, config: Path, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        """`settings`: section `watch`; `config`: the run's up.yaml, which holds it."""
        self.say = say
        self.folder = folder
        argv = [sys.executable, "-m", "rgopd.cli.main", "watch", str(folder), "--config", str(config)]
        self.child = Child("watch", argv, folder / "logs", stop_timeout_s=5.0)
        if not settings.get("port"):
            # The same address as in the run's last life, so that a page that is still open comes back by itself.
            self.child.argv = [
                *argv,
                "--set",
                f"port={_port(self.child.url(), str(settings.get('host', '127.0.0.1')))}",
            ]
        self.restarts = Restarts(MAX_RESTARTS)
        self.told = self.given_up = False

    def start(self) -> None:
        """Start it; nobody waits until it is there."""
        self.child.start()
        self.child.out.chmod(0o600)  # the URL may hold a token

    def wait(self, timeout_s: float) -> None:
        """Until it has said where it is, or died, or the time is over: the models take longer to load than it does."""
        deadline = time.monotonic() + timeout_s
        while not self.told and self.child.poll() is None and time.monotonic() < deadline:
            self.tend()
            time.sleep(0.05)

    def tend(self) -> None:
        """Say where the page is, once it is ready; start it again when it died, a few times."""
        if not self.told and (url := self.child.url()):
            self.told = True
            self.say(f"{'page':<10} {url}")
        if self.given_up or self.child.poll() is None:
            return
        if self.restarts.due is None and not self.restarts.died(time.monotonic() - self.child.started):
            self.given_up = True
            tail = self.child.tail()
            self.say(
                f"The page is gone, the run goes on; `rgopd watch {self.folder}` starts it again. Its log ends:\n{tail}"
            )
        elif self.restarts.ready():
            self.start()

    def stop(self) -> None:
        """Stop it."""
        self.child.stop()


def _port(before: str | None, host: str) -> int:
    port = urlsplit(before).port if before else None
    if port is not None:
        try:
            bind(host, port).close()
            return port
        except ConfigError:  # somebody else's by now
            pass
    return free_port()
