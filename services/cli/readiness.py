"""Waiting until every service of `rgopd up` is ready: for as long as each of them gets on with something."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rgopd.cli.processes import Child, ProcessFailed
from rgopd.common.children import PERMANENT
from rgopd.common.hub import Repo, hub_repo
from rgopd.common.loading import Downloads
from rgopd.common.run_files import read_status
from rgopd.common.signs import LogNews, Signs, Watched, signs_of

LOOK_S, TELL_S = 1.0, 15.0


@dataclass
class _Waiting:
    child: Child
    downloads: Downloads
    watched: Watched
    next_look: float = 0.0
    next_word: float = 0.0

    def text(self) -> str:
        """What it does now, in words."""
        return self.watched.tell(self.watched.seen.fetched, self.downloads.wanted, "loading")


def repos_of(sections: Mapping[str, Any], role: str) -> list[Repo]:
    """What the processes of a section may have to download."""
    section = {**sections.get("common", {}), **sections.get(role, {})}
    if role == "teacher" and section.get("engine") == "vllm-server":
        return []
    name = section.get("model" if role == "teacher" else "student", "")
    found = hub_repo(str(name or ""), str(section.get("revision", "")) if role == "teacher" else "")
    return [found] if found else []


class Readiness:
    """Waits for services, all at once.

    Args:
        limit_s: how long one may show no sign of getting on.
        tell: hears (name, what it does now) every second, for a display.
        say: hears a line for people now and then, where it takes long.
    """

    def __init__(
        self, limit_s: float, tell: Callable[[str, str], None], say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.limit_s, self.tell, self.say = limit_s, tell, say

    def wait(
        self,
        services: Sequence[Child],
        repos: Callable[[str], Sequence[Repo]],
        ready: Callable[[Child, str], None],
        *,
        trainer: Child | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Until each has said that it is ready.

        repos: what a service of a name may have to download; ready: hears of each with its URL.

        Raises:
            ProcessFailed: one ended, or is stuck; the text says with what. Or the trainer cannot go on at all.
        """
        waiting = [self._begin(child, repos(child.name)) for child in services]
        while waiting:
            tick()
            for each in list(waiting):
                if url := each.child.url():
                    waiting.remove(each)
                    ready(each.child, url)
                else:
                    self._look(each)
            if trainer is not None and trainer.poll() == PERMANENT:
                raise ProcessFailed(f"the trainer cannot go on:\n{trainer.tail()}")
            time.sleep(0.05)

    def _begin(self, child: Child, repos: Sequence[Repo]) -> _Waiting:
        downloads = Downloads(repos)
        look = partial(_signs, child, downloads)
        marks = LogNews([child.out, child.err])
        now = time.monotonic()
        return _Waiting(child, downloads, Watched(look, self.limit_s, marks), now, now + TELL_S)

    def _look(self, each: _Waiting) -> None:
        child, now = each.child, time.monotonic()
        if (code := child.poll()) is not None:
            raise ProcessFailed(f"{child.name} exited with {code} before it was ready:\n{child.tail()}")
        if now < each.next_look:
            return
        each.next_look = now + min(LOOK_S, self.limit_s / 4)
        each.watched.tick()
        text = each.text()
        self.tell(child.name, text)
        if why := each.watched.stuck():
            raise ProcessFailed(
                f"{child.name} is stuck while {text}: {why} (up.ready_timeout_s={self.limit_s:g}). Its log ends with:\n"
                f"{child.tail()}"
            )
        if now >= each.next_word:
            each.next_word = now + TELL_S
            self.say(f"{child.name}: {text}")


def _signs(child: Child, downloads: Downloads) -> Signs:
    return signs_of(child.process.pid, downloads.here) if child.process is not None else Signs()


class TrainerStart:
    """The trainer, which says what it does in status.json, while that is `loading`: also after it was started again.

    Args:
        folder: the run's.
        repos: what it may have to download.
        limit_s: how long it may show no sign of getting on.
    """

    def __init__(self, child: Child, folder: Path, repos: Sequence[Repo], limit_s: float) -> None:
        self.child, self.folder, self.limit_s = child, folder, limit_s
        self.downloads = Downloads(repos)
        self._of = -1.0
        self._since = 0.0
        self._watched: Watched | None = None
        self._next_look = 0.0

    def look(self) -> None:
        """Call it now and then.

        Raises:
            ProcessFailed: it is stuck before its first step.
        """
        if self.child.started != self._of:
            self._of, self._since = self.child.started, time.time()
            marks = LogNews([self.child.out, self.child.err])
            self._watched = Watched(partial(_signs, self.child, self.downloads), self.limit_s, marks)
        if self._watched is None or time.monotonic() < self._next_look or self.child.poll() is not None:
            return
        self._next_look = time.monotonic() + min(LOOK_S, self.limit_s / 4)
        status = read_status(self.folder)
        if status is not None and status["started"] >= self._since - 1.0 and status["phase"] != "loading":
            self._watched = None
            return
        self._watched.tick()
        if why := self._watched.stuck():
            doing = self._watched.tell(self._watched.seen.fetched, self.downloads.wanted, "loading")
            raise ProcessFailed(
                f"the trainer is stuck while {doing}: {why} (up.ready_timeout_s={self.limit_s:g}). Its log ends with:\n"
                f"{self.child.tail()}"
            )
