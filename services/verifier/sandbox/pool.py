"""The slots of a service and their leases: a check gets a slot that works, or one more that was made anew."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.sandbox.slot import Slot
from rgopd.verifier.sandbox.zygote_process import SandboxSettings

log = logging.getLogger(__name__)

T = TypeVar("T")


class SandboxPool:
    """`size` slots; `lease` hands one out."""

    def __init__(self, size: int, settings: SandboxSettings) -> None:
        self.settings = settings
        self.size = size
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()  # first in, first out: one that fails comes last
        self._all: list[Slot] = []
        self._lock = threading.Lock()
        try:
            for number in range(size):
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
        return self._twice(lambda slot: slot.run(command))

    def run_pair(self, candidate: Command, checker: Command) -> tuple[Finished, Finished]:
        """The same for a pair."""
        return self._twice(lambda slot: slot.run_pair(candidate, checker))

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
        for slot in slots:
            slot.close()


__all__ = ["Command", "Finished", "SandboxError", "SandboxPool", "SandboxSettings", "Slot"]
