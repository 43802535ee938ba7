"""The slots of a service and their leases: a check gets a slot that works, or one more that was made anew."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.sandbox.slot import Slot
from rgopd.verifier.sandbox.zygote_process import SandboxSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

_PACKAGES_MB = 1024
"""What imported packages map or hold already when a check begins; its own limit comes on top."""


def _source(command: Command) -> str:
    """The Python that it runs."""
    payload = command.payload
    parts = (
        payload.get("program", ""),
        payload.get("setup", ""),
        *payload.get("tests", ()),
        *payload.get("preludes", ()),
    )
    return "\n".join(part for part in parts if isinstance(part, str))


def _with_room(command: Command) -> Command:
    return replace(command, limits=command.limits._replace(memory_mb=command.limits.memory_mb + _PACKAGES_MB))


class SandboxPool:
    """`size` slots; `lease` hands one out.

    Programs that import one of the settings' packages run in as many slots of their own, started when the first of
    them comes, whose zygotes have imported them all: no check waits for an import, and no other check copies their
    pages. `first` is the number of the first slot.
    """

    def __init__(self, size: int, settings: SandboxSettings, first: int = 0) -> None:
        self.settings = settings
        self.size = size
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()  # first in, first out: one that fails comes last
        self._all: list[Slot] = []
        self._lock = threading.Lock()
        self._first = first
        self._with_packages: SandboxPool | None = None
        names = "|".join(map(re.escape, settings.packages))
        self._imports = re.compile(rf"^[ \t]*(?:import|from)[ \t]+(?:{names})\b", re.MULTILINE) if names else None
        try:
            for number in range(first, first + size):
                slot = Slot(number, settings)
                self._all.append(slot)
                self._free.put(slot)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def lease(self, *, fresh: bool = False) -> Iterator[Slot]:
        """A slot for this thread, its zygote new if `fresh`; one that broke is always replaced first.

        Raises:
            SandboxError: no zygote can be started at the moment; the next lease tries again.
        """
        slot = self._free.get()
        try:
            if slot.down or fresh:
                slot.restart()
            yield slot
            try:
                slot.after()
            except SandboxError as error:  # the next lease tries again; this check has its answer
                log.warning("sandbox slot %d is down: %s", slot.number, error)
                slot.close()
        except BaseException:
            slot.close()
            raise
        finally:
            self._free.put(slot)

    def run(self, command: Command) -> Finished:
        """Run in any free slot; once more on a fresh zygote if the first broke."""
        if (pool := self._for_packages(command)) is not None:
            return pool.run(_with_room(command))
        return self._twice(lambda slot: slot.run(command))

    def run_pair(self, candidate: Command, checker: Command) -> tuple[Finished, Finished]:
        """The same for a pair."""
        if (pool := self._for_packages(candidate, checker)) is not None:
            return pool.run_pair(_with_room(candidate), _with_room(checker))
        return self._twice(lambda slot: slot.run_pair(candidate, checker))

    def _for_packages(self, *commands: Command) -> SandboxPool | None:
        if self._imports is None or not any(self._imports.search(_source(command)) for command in commands):
            return None
        with self._lock:
            if self._with_packages is None:
                settings = self.settings
                warm = replace(settings, packages=(), preimport=(*settings.preimport, *settings.packages))
                self._with_packages = SandboxPool(self.size, warm, first=self._first + self.size)
            return self._with_packages

    def _twice(self, work: Callable[[Slot], T]) -> T:
        try:
            with self.lease() as slot:
                return work(slot)
        except SandboxError as error:
            log.warning("sandbox slot replaced: %s", error)
        with self.lease(fresh=True) as slot:
            return work(slot)

    def close(self) -> None:
        """Stop every zygote."""
        with self._lock:
            slots, self._all = self._all, []
            warm, self._with_packages = self._with_packages, None
        if warm is not None:
            warm.close()
        for slot in slots:
            slot.close()


__all__ = ["Command", "Finished", "SandboxError", "SandboxPool", "SandboxSettings", "Slot"]
