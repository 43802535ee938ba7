"""A slot: one zygote at a time and the checks in it, each within its budget; old and broken zygotes are replaced."""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rgopd.verifier.sandbox import scratch
from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.processes import Processes
from rgopd.verifier.sandbox.zygote_process import SandboxSettings, ZygoteProcess

log = logging.getLogger(__name__)
_ROOM_MB = 4


class Slot:
    """One zygote and the checks in it. Used by one thread at a time.

    Attributes:
        runs: checks since the zygote was started.
    """

    def __init__(self, number: int, settings: SandboxSettings) -> None:
        self.number = number
        self.settings = settings
        self.runs = 0
        self._zygote: ZygoteProcess | None = None
        self.start()

    @property
    def down(self) -> bool:
        """It has no zygote."""
        return self._zygote is None

    @property
    def zygote(self) -> ZygoteProcess:
        """The zygote. Raises SandboxError while the slot is down."""
        if self._zygote is None:
            raise SandboxError(f"slot {self.number} has no zygote")
        return self._zygote

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The zygote's process, None while down."""
        return None if self._zygote is None else self._zygote.process

    @property
    def scratch(self) -> str:
        """The writable folder on rung 3, '' elsewhere."""
        return "" if self._zygote is None else self._zygote.scratch

    @property
    def info(self) -> dict[str, Any]:
        """What the zygote said of itself."""
        return self.zygote.info

    def start(self) -> None:
        """Start a zygote and wait until it says ready.

        Raises:
            SandboxError: it did not start; the slot stays down and may be started again.
        """
        self._zygote = ZygoteProcess.start(self.number, self.settings)

    def close(self) -> None:
        """Stop the zygote and everything under it; `start` makes a new one."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def restart(self) -> None:
        """A new zygote in this slot."""
        self.close()
        self.runs = 0
        self.start()

    def after(self) -> None:
        """Between checks: empty the writable folder, recycle an old zygote."""
        self.runs += 1
        try:
            if self.scratch:
                scratch.empty(self.scratch)
        except OSError as error:
            log.warning("slot %d: its folder cannot be emptied: %s", self.number, error)
            self.runs = self.settings.recycle_after
        if self.runs >= self.settings.recycle_after:
            self.restart()

    def run(self, command: Command) -> Finished:
        """Run one process to its end.

        Raises:
            SandboxError: the sandbox failed, not the code.
        """
        with _as_sandbox_errors(), Processes(self.zygote) as check, self._budget(command.limits) as marked:
            check.start(command, check.new_stream(command.limits.value_bytes, "values"))
            return marked(check.finish()[0])

    def run_pair(self, candidate: Command, checker: Command) -> tuple[Finished, Finished]:
        """Run a candidate that serves its names and, beside it, the checker that asks.

        Returns the candidate's and the checker's end; the checker's outcomes are its `channel`.
        """
        with _as_sandbox_errors(), Processes(self.zygote) as check, self._budget(candidate.limits) as marked:
            near, far = check.new_pair()
            check.start(candidate, near.fileno())
            near.close()
            result = check.new_stream(checker.limits.output_bytes, "values")
            check.start(checker, far.fileno(), result)
            far.close()
            ended = check.finish(decisive=1)
            return marked(ended[0]), ended[1]

    @contextmanager
    def _budget(self, limits: Limits) -> Iterator[Callable[[Finished], Finished]]:
        """Set the group's budget; gives what marks a process that the kernel killed for memory."""
        if self.scratch:
            scratch.check_room(self.scratch, min(limits.file_mb, _ROOM_MB))
        group = self.zygote.group
        if group is None:
            yield lambda end: end
            return
        group.limit(limits.memory_mb, limits.processes)
        before = group.oom_kills()

        def marked(end: Finished) -> Finished:
            if end.signal == signal.SIGKILL and not end.killed and group.oom_kills() > before:
                return replace(end, killed="memory")
            return end

        yield marked


@contextmanager
def _as_sandbox_errors() -> Iterator[None]:
    """Of this process: out of descriptors, of memory. They say nothing about the code under test."""
    try:
        yield
    except OSError as error:
        raise SandboxError(f"the service cannot run a check: {error}") from error
