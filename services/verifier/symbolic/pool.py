"""Workers that answer one question at a time under a hard deadline, and are killed and re-forked when they miss it."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.common.errors import RgopdError
from rgopd.verifier.sandbox.kernel import process_cpu_seconds

log = logging.getLogger(__name__)

_BOOT = (
    "import sys;sys.path.insert(0,sys.argv[1]);from rgopd.verifier.symbolic import server;server.main(int(sys.argv[2]))"
)
_START_S = 120.0
_TICK_MS = 100


class SymbolicError(RgopdError):
    """A worker was lost or killed; nothing is known about the answer."""

    kind = "symbolic"


class DeadlineExceeded(SymbolicError):
    """The question took longer than its deadline."""

    kind = "deadline"


@dataclass
class _Worker:
    """A forked process: its socket, and a pidfd that always means this process."""

    sock: socket.socket
    pid: int
    pidfd: int
    answered: int = 0

    def kill(self) -> None:
        """End it. Its parent, the server, reaps it."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self.pidfd)
        self.sock.close()


class _Server:
    """The warm process that forks workers."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[3])
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH")}
        # gmpy2's factorial cannot be interrupted and ignores limits; without it the same call stays in Python
        env = {**keep, "PYTHONHASHSEED": "0", "SYMPY_GROUND_TYPES": "python", "MPMATH_NOGMPY": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, root, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.control.settimeout(_START_S)
        try:
            ready = self.control.recv(64)
        except OSError:
            ready = b""
        if not ready:
            self.close()
            raise SymbolicError("the math-verify server did not start; is the [verifier] extra installed?")

    def fork(self) -> _Worker:
        """A new worker, in about a millisecond."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(self.control, [b"fork"], [theirs.fileno()])
        packet, fds, _, _ = socket.recv_fds(self.control, 64, 1)
        if not packet or not fds:
            ours.close()
            raise SymbolicError("the math-verify server died")
        return _Worker(ours, int(packet), fds[0])

    def close(self) -> None:
        """End the server and its workers."""
        self.control.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class SymbolicPool:
    """`size` workers. `ask` may be called from any thread."""

    def __init__(
        self, size: int, *, deadline_s: float = 2.0, wall_factor: float = 10.0, recycle_after: int = 2000
    ) -> None:
        self.size = size
        self.deadline_s = deadline_s
        self.wall_factor = wall_factor
        self.recycle_after = recycle_after
        self._lock = threading.Lock()
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._server = _Server()
        for _ in range(size):
            self._free.put(self._fork())

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One question, one answer.

        Raises:
            DeadlineExceeded: over `deadline_s` of CPU time, or `wall_factor` times that of wall time.
            SymbolicError: the worker crashed (out of memory, stack overflow in C, ...).
        """
        worker = self._free.get()
        try:
            if worker is None:
                worker = self._fork()
            answer = self._exchange(worker, question)
        except BaseException:
            if worker is not None:
                worker.kill()
            self._free.put(None)  # its place stays; the next one to come forks a new worker
            raise
        worker.answered += 1
        if worker.answered >= self.recycle_after:
            worker.kill()
            self._free.put(None)
        else:
            self._free.put(worker)
        return answer

    def _fork(self) -> _Worker:
        with self._lock:
            try:
                return self._server.fork()
            except (OSError, SymbolicError) as error:
                log.warning("restarting the math-verify server: %s", error)
            self._server.close()
            self._server = _Server()
            return self._server.fork()

    def _exchange(self, worker: _Worker, question: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(question).encode()
        began = time.monotonic()
        cpu_before = process_cpu_seconds(worker.pid)
        worker.sock.settimeout(5.0)
        try:
            worker.sock.sendall(struct.pack("=I", len(body)) + body)
        except OSError as error:
            raise SymbolicError(f"the worker is gone: {error}") from error
        worker.sock.setblocking(False)
        poll = select.poll()
        poll.register(worker.sock, select.POLLIN)
        data = bytearray()
        while len(data) < 4 or len(data) < 4 + struct.unpack_from("=I", data)[0]:
            if not poll.poll(_TICK_MS):
                self._enforce(worker, cpu_before, began)
                continue
            try:
                part = worker.sock.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                raise SymbolicError("the worker crashed on this answer")
            data += part
        answer: dict[str, Any] = json.loads(bytes(data[4:]))
        return answer

    def _enforce(self, worker: _Worker, cpu_before: float, began: float) -> None:
        try:
            used = process_cpu_seconds(worker.pid) - cpu_before
        except OSError:
            return  # it has just died; the socket will tell
        if used > self.deadline_s:
            raise DeadlineExceeded(f"took more than {self.deadline_s:g} s of CPU time")
        if time.monotonic() - began > self.deadline_s * self.wall_factor:
            raise DeadlineExceeded(f"took more than {self.deadline_s * self.wall_factor:g} s")

    def close(self) -> None:
        """End every worker."""
        while True:
            try:
                worker = self._free.get_nowait()
            except queue.Empty:
                break
            if worker is not None:
                worker.kill()
        self._server.close()
