"""The supervisor's side: slots with a zygote each, and runs that never wait for one another."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rgopd.common.errors import RgopdError
from rgopd.verifier.sandbox import scratch
from rgopd.verifier.sandbox.cgroups import SlotGroup
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.uids import slot_uids

log = logging.getLogger(__name__)

T = TypeVar("T")

_BOOT = (
    "import sys;sys.path.insert(0,sys.argv[1]);from rgopd.verifier.sandbox import zygote;"
    "sys.path.pop(0);sys.exit(zygote.main(int(sys.argv[2])))"
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "MALLOC_ARENA_MAX": "1",  # or every thread reserves 64 MB of the address space
}
_START_S = 30.0
_GRACE_S = 10.0


class SandboxError(RgopdError):
    """The sandbox could not run a check: nothing is known about the code."""

    kind = "sandbox"


@dataclass(frozen=True)
class Command:
    """One process to run.

    Attributes:
        mode: "calls" | "main" | "exec" | "check".
        payload: JSON for the Python modes.
        stdin: what descriptor 0 holds.
        tool: may start processes and reserve address space (compilers, other languages' runtimes).
        argv: with "exec": the command; the working folder is empty but for `file`.
        file: with "exec": (name, content) of an executable file.
    """

    mode: str
    limits: Limits
    payload: dict[str, Any] = field(default_factory=dict)
    stdin: bytes = b""
    tool: bool = False
    argv: tuple[str, ...] = ()
    file: tuple[str, bytes] = ("", b"")


@dataclass
class Finished:
    """What a process did.

    `killed` is '' or why it was ended: "cpu", "wall", "starved", "memory", "files", "output", "values", "done".
    """

    code: int | None
    signal: int | None
    cpu_s: float
    wall_s: float
    killed: str
    stdout: bytes = b""
    stderr: bytes = b""
    channel: bytes = b""
    alone: bool = True
    """Every pipe of it has reached its end: no process that held one is left."""


@dataclass(frozen=True)
class SandboxSettings:
    """How zygotes are started."""

    rung: int
    python: str = ""
    readable: tuple[str, ...] = ()
    preimport: tuple[str, ...] = ()
    uid_base: int = 0
    recycle_after: int = 20_000


def interpreter(python: str = "") -> str:
    """The interpreter for code under test: the base one, without this service's packages."""
    return python or getattr(sys, "_base_executable", "") or sys.executable


def interpreter_folders(python: str) -> tuple[str, ...]:
    """Where that interpreter lies."""
    prefix = Path(python).resolve().parent.parent
    return () if str(prefix).startswith("/usr") else (str(prefix),)


class Stream:
    """A pipe being drained, with a cap."""

    def __init__(self, limit: int, why: str) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)
        self.limit = limit
        self.why = why
        self.data = bytearray()
        self.open = True

    def close_write(self) -> None:
        """The child has its own copy."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def drain(self) -> bool:
        """Read what is there; True when over the limit. Past the limit bytes are read and dropped.

        Raises:
            BlockingIOError: nothing is there now.
        """
        part = os.read(self.read_fd, 1 << 17)
        if not part:
            self.close_read()
            return False
        room = self.limit - len(self.data)
        self.data += part[: max(0, room)]
        return len(part) > room

    def close_read(self) -> None:
        """Done with it."""
        if self.open:
            os.close(self.read_fd)
            self.open = False


class Slot:
    """One zygote and the runs in it. Used by one thread at a time."""

    def __init__(self, number: int, settings: SandboxSettings) -> None:
        self.number = number
        self.settings = settings
        self.runs = 0
        self.next_id = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.scratch = ""
        self.group: SlotGroup | None = None
        self.info: dict[str, Any] = {}
        self.down = True
        self.start()

    @property
    def control(self) -> socket.socket:
        """The socket to the zygote. Raises SandboxError while the slot is down."""
        if self._control is None:
            raise SandboxError(f"slot {self.number} has no zygote")
        return self._control

    def start(self) -> None:
        """Start the zygote in its group and wait until it says ready.

        Raises:
            SandboxError: it did not start; the slot stays down and may be started again.
        """
        try:
            self._start()
        except OSError as error:  # no descriptor, process or space left for it
            self._stop()
            raise SandboxError(f"rung {self.settings.rung}: the zygote cannot be started: {error}") from error
        self.down = False

    def _start(self) -> None:
        settings = self.settings
        python = interpreter(settings.python)
        uid, checker_uid = slot_uids(self.number, settings.uid_base)
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = control
        root = str(Path(__file__).resolve().parents[3])
        if settings.rung == 3:
            scratch.sweep()
            self.scratch = scratch.make(uid)
        with theirs:
            self.process = subprocess.Popen(
                [python, "-S", "-s", "-P", "-B", "-c", _BOOT, root, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        folders = (*interpreter_folders(python), *settings.readable)
        if settings.rung == 3:
            folders = (*_SYSTEM, *folders)
        if settings.rung == 1:
            self.group = SlotGroup.create(f"rgopd-{os.getpid()}-{self.number}-{self.process.pid}")
            if self.group is not None:
                self.group.add(self.process.pid)  # it waits for the setup before it forks
        setup = {
            "rung": settings.rung,
            "uid": uid,
            "checker_uid": checker_uid,
            "scratch": self.scratch,
            "readable": folders,
            "preimport": settings.preimport,
            "watch_memory": self.group is None,
        }
        control.settimeout(_START_S)
        try:
            control.send(json.dumps(setup).encode())
            packet = control.recv(1 << 16)
        except (TimeoutError, OSError) as error:
            packet = b""
            log.debug("zygote start: %s", error)
        if not packet:
            reason = self._stop()
            raise SandboxError(f"rung {settings.rung}: the zygote did not start: {reason}")
        self.info = {**json.loads(packet), "cgroup": self.group.version if self.group else 0}
        control.setblocking(False)

    def close(self) -> None:
        """Stop the zygote and everything under it; `start` makes a new one."""
        self.down = True
        self._stop()

    def _stop(self) -> str:
        """Its last words, or how it ended."""
        last_words = self._stop_process()
        folder, self.scratch = self.scratch, ""
        if folder:
            scratch.remove(folder)
        if self.group is not None:
            self.group.close()
            self.group = None
        return last_words

    def _stop_process(self) -> str:
        if self._control is not None:
            self._control.close()
            self._control = None
        if (process := self.process) is None:
            return ""
        self.process = None
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with process.stderr as pipe:  # type: ignore[union-attr]
            lines = pipe.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {process.returncode}"

    def run(self, command: Command) -> Finished:
        """Run one process to its end.

        Raises:
            SandboxError: the sandbox failed, not the code.
        """
        with _as_sandbox_errors(), _Run(self) as run, self._budget(command.limits) as marked:
            run.start(command, run.new_stream(command.limits.value_bytes, "values"))
            return marked(run.finish()[0])

    def run_pair(self, candidate: Command, checker: Command) -> tuple[Finished, Finished]:
        """Run a candidate that serves its names and, beside it, the checker that asks.

        Returns the candidate's and the checker's end; the checker's outcomes are its `channel`.
        """
        with _as_sandbox_errors(), _Run(self) as run, self._budget(candidate.limits) as marked:
            near, far = run.new_pair()
            run.start(candidate, near.fileno())
            near.close()
            result = run.new_stream(checker.limits.output_bytes, "values")
            run.start(checker, far.fileno(), result)
            far.close()
            ended = run.finish(decisive=1)
            return marked(ended[0]), ended[1]

    @contextmanager
    def _budget(self, limits: Limits) -> Iterator[Callable[[Finished], Finished]]:
        """Set the group's budget; gives what marks a process that the kernel killed for memory."""
        group = self.group
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

    def restart(self) -> None:
        """A new zygote in this slot."""
        self.close()
        self.runs = 0
        self.start()


@contextmanager
def _as_sandbox_errors() -> Iterator[None]:
    """Of this process: out of descriptors, of memory. They say nothing about the code under test."""
    try:
        yield
    except OSError as error:
        raise SandboxError(f"the service cannot run a check: {error}") from error


class _Run:
    """The processes of one check: their pipes, and the loop that waits for them."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.streams: dict[int, Stream] = {}
        self.mine: dict[int, tuple[Stream, Stream, Stream | None]] = {}
        self.ended: dict[int, dict[str, Any]] = {}
        self.order: list[int] = []
        self.deadline = 0.0
        self._closing = ExitStack()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        for stream in self.streams.values():
            stream.close_write()
            stream.close_read()

    def new_stream(self, limit: int, why: str) -> Stream:
        """A pipe that this run drains."""
        stream = Stream(limit, why)
        self.streams[stream.read_fd] = stream
        return stream

    def new_pair(self) -> tuple[socket.socket, socket.socket]:
        """A channel between two processes of this run."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closing.enter_context(near)
        self._closing.enter_context(far)
        return near, far

    def start(self, command: Command, channel: Stream | int, result: Stream | None = None) -> None:
        """Send the order and the descriptors."""
        number = self.slot.next_id = self.slot.next_id + 1
        out = self.new_stream(command.limits.output_bytes, "output")
        err = self.new_stream(min(command.limits.output_bytes, 1 << 16), "stderr")
        content = command.file[1] if command.mode == "exec" else json.dumps(command.payload).encode()
        order = {
            "spawn": number,
            "mode": command.mode,
            "limits": command.limits,
            "tool": command.tool,
            "argv": command.argv,
            "file": command.file[0],
        }
        with ExitStack() as closing:
            fds = [_memfd(command.stdin, closing), out.write_fd, err.write_fd, _memfd(content, closing)]
            if command.mode in ("calls", "check"):
                fds.append(channel.write_fd if isinstance(channel, Stream) else channel)
            if result is not None:
                fds.append(result.write_fd)
            try:
                socket.send_fds(self.slot.control, [json.dumps(order).encode()], fds)
            except OSError as error:
                raise SandboxError(f"the zygote is gone: {error}") from error
        answers = result or (channel if isinstance(channel, Stream) else None)
        for stream in (out, err, answers):
            if stream is not None:
                stream.close_write()
        self.mine[number] = (out, err, answers)
        self.order.append(number)
        self.deadline = time.monotonic() + command.limits.wall_s * 4 + _GRACE_S

    def finish(self, decisive: int | None = None) -> list[Finished]:
        """Drain until every process has ended. When the one at index `decisive` ends, the others are killed."""
        poll = select.poll()
        poll.register(self.slot.control, select.POLLIN)
        for fd, stream in self.streams.items():
            if stream.write_fd < 0:
                poll.register(fd, select.POLLIN)
        killed: set[int] = set()
        while len(self.ended) < len(self.order):
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise SandboxError("the zygote did not answer in time")
            for fd, _ in poll.poll(left * 1000):
                if fd == self.slot.control.fileno():
                    self._receive()
                elif self.streams[fd].drain():
                    self._over(self.streams[fd], killed)
                if fd in self.streams and not self.streams[fd].open:
                    poll.unregister(fd)
            if decisive is not None and self.order[decisive] in self.ended:
                for number in self.order:
                    if number not in self.ended and number not in killed:
                        killed.add(number)
                        self._send({"kill": number, "why": "done"})
        return [self._finished(number) for number in self.order]

    def _over(self, stream: Stream, killed: set[int]) -> None:
        for number, streams in self.mine.items():
            if stream in streams and stream.why != "stderr" and number not in killed:
                killed.add(number)
                self._send({"kill": number, "why": stream.why})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.slot.control.send(json.dumps(message).encode())
        except OSError as error:
            raise SandboxError(f"the zygote is gone: {error}") from error

    def _receive(self) -> None:
        try:
            packet = self.slot.control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise SandboxError(f"the zygote is gone: {error}") from error
        if not packet:
            raise SandboxError("the zygote died")
        message = json.loads(packet)
        self.ended[message["exit"]] = message

    def _finished(self, number: int) -> Finished:
        message = self.ended[number]
        if "setup_failed" in message:
            raise SandboxError(f"confinement failed: {message['setup_failed']}")
        out, err, answers = self.mine[number]
        for stream in (out, err, answers):
            while stream is not None and stream.open and self._more(stream):
                pass
        return Finished(
            code=message["code"],
            signal=message["signal"],
            cpu_s=message["cpu_s"],
            wall_s=message["wall_s"],
            killed=message["killed"],
            stdout=bytes(out.data),
            stderr=bytes(err.data),
            channel=bytes(answers.data) if answers is not None else b"",
            alone=not (out.open or err.open),
        )

    @staticmethod
    def _more(stream: Stream) -> bool:
        """Read once more; False at the end, or when nothing is there (someone still holds the pipe)."""
        try:
            stream.drain()
        except BlockingIOError:
            return False
        return stream.open


def _memfd(content: bytes, closing: ExitStack) -> int:
    """A seekable, private file in memory; a child reads it at its own pace and nobody has to feed it."""
    fd = os.memfd_create("data", os.MFD_CLOEXEC)
    closing.callback(os.close, fd)
    os.fchmod(fd, 0o444)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class SandboxPool:
    """`size` slots; `lease` hands one out."""

    def __init__(self, size: int, settings: SandboxSettings) -> None:
        self.settings = settings
        self.size = size
        self._free: queue.SimpleQueue[Slot] = (
            queue.SimpleQueue()
        )  # first in, first out: one that fails is not next again
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


__all__ = ["Command", "Finished", "SandboxError", "SandboxPool", "SandboxSettings", "Slot", "interpreter"]
