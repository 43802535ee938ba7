"""While a service loads: what it does in words, for /readyz and the log; its end, with the reason, if it is stuck.

Nobody outside has to guess how long a download, a load, a compilation and a graph capture may take together: probes of
a loading service fail without being deadly, and the process itself ends when it shows no sign of getting on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from rgopd.common.errors import ConfigError
from rgopd.common.hub import Repo, bytes_here, size_of
from rgopd.common.signs import Signs, Watched, signs_of

log = logging.getLogger(__name__)

LOOK_S, TELL_S = 1.0, 30.0


class Downloads:
    """What of some repositories is on this disk, and how much there will be. Sizes are asked for once, in a thread."""

    def __init__(self, repos: Sequence[Repo]) -> None:
        self.repos = list(dict.fromkeys(repos))
        self.wanted = 0
        if self.repos:
            threading.Thread(target=self._ask, name="sizes", daemon=True).start()

    def here(self) -> int:
        """Bytes."""
        return sum(map(bytes_here, self.repos))

    def _ask(self) -> None:
        try:
            self.wanted = sum(map(size_of, self.repos))
        except ConfigError as error:  # only a figure in a message
            log.debug("%s", error)


class LoadWatch:
    """Looks every second until `stop`.

    Args:
        tell: hears in words what is done now.
        give_up: hears once why loading is stuck.
        repos: what may have to be downloaded.
        limit_s: how long without a sign of progress means stuck.
    """

    def __init__(
        self, tell: Callable[[str], None], give_up: Callable[[str], None], repos: Sequence[Repo], limit_s: float
    ) -> None:
        self.tell, self.give_up, self.limit_s = tell, give_up, limit_s
        self.downloads = Downloads(repos)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """It is loaded, or failed."""
        self._over.set()

    def _run(self) -> None:
        watched = Watched(self._look, self.limit_s)
        next_word = time.monotonic() + TELL_S
        while not self._over.wait(min(LOOK_S, self.limit_s / 4)):
            watched.tick()
            text = watched.tell(watched.seen.fetched, self.downloads.wanted, "loading")
            self.tell(text)
            if why := watched.stuck():
                self.give_up(f"stuck while {text}: {why}")
                return
            if time.monotonic() >= next_word:
                next_word = time.monotonic() + TELL_S
                log.info("%s", text)

    def _look(self) -> Signs:
        return signs_of(os.getpid(), self.downloads.here)
