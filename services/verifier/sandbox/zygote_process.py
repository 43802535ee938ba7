"""A slot's zygote from outside: started in its group and with its folder, waited for, stopped with all that it owns."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.verifier.sandbox import scratch
from rgopd.verifier.sandbox.cgroups import SlotGroup
from rgopd.verifier.sandbox.command import SandboxError
from rgopd.verifier.sandbox.uids import slot_uids

log = logging.getLogger(__name__)

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
    "OPENBLAS_NUM_THREADS": "1",  # a process that has threads cannot be forked
    "OMP_NUM_THREADS": "1",
}
_START_S = 30.0


@dataclass(frozen=True)
class SandboxSettings:
    """How zygotes are started. `packages` lie in `package_folder`, which is on the path of code under test."""

    rung: int
    python: str = ""
    readable: tuple[str, ...] = ()
    preimport: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    package_folder: str = ""
    uid_base: int = 0
    recycle_after: int = 20_000


def interpreter(python: str = "") -> str:
    """The interpreter for code under test: the base one, without this service's packages."""
    return python or getattr(sys, "_base_executable", "") or sys.executable


def interpreter_folders(python: str) -> tuple[str, ...]:
    """Where that interpreter lies."""
    prefix = Path(python).resolve().parent.parent
    return () if str(prefix).startswith("/usr") else (str(prefix),)


class ZygoteProcess:
    """A process that was started, its control socket, its group and its writable folder. `start` makes one.

    Attributes:
        orders: how many it was given.
        info: what it said when it was ready, and the cgroup's version (0: none).
    """

    def __init__(self) -> None:
        self.orders = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.scratch = ""
        self.group: SlotGroup | None = None
        self.info: dict[str, Any] = {}

    @classmethod
    def start(cls, number: int, settings: SandboxSettings) -> ZygoteProcess:
        """Start the zygote of a slot in its group and wait until it says ready.

        Raises:
            SandboxError: it did not start; nothing of it is left.
        """
        zygote = None
        try:
            zygote = cls()
            zygote._start(number, settings)
        except OSError as error:  # no descriptor, process or space left for it
            if zygote is not None:
                zygote.close()
            raise SandboxError(f"rung {settings.rung}: the zygote cannot be started: {error}") from error
        return zygote

    def _start(self, number: int, settings: SandboxSettings) -> None:
        python = interpreter(settings.python)
        uid, checker_uid = slot_uids(number, settings.uid_base)
        if settings.rung == 3:
            scratch.sweep()
            self.scratch = scratch.make(uid)
        self.process = process = self._spawn(python)
        folders = (*interpreter_folders(python), *settings.readable)
        if settings.rung == 3:
            folders = (*_SYSTEM, *folders)
        if settings.rung == 1:
            self.group = SlotGroup.create(f"rgopd-{os.getpid()}-{number}-{process.pid}")
            if self.group is not None:
                self.group.add(process.pid)  # it waits for the setup before it forks
        setup = {
            "rung": settings.rung,
            "uid": uid,
            "checker_uid": checker_uid,
            "scratch": self.scratch,
            "readable": folders,
            "preimport": settings.preimport,
            "package_folder": settings.package_folder,
            "watch_memory": self.group is None,
        }
        packet = self._introduce(setup)
        if not packet:
            raise SandboxError(f"rung {settings.rung}: the zygote did not start: {self.close()}")
        self.info = {**json.loads(packet), "cgroup": self.group.version if self.group else 0}
        self.control.setblocking(False)

    def _spawn(self, python: str) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        with self._theirs as theirs:
            return subprocess.Popen(
                [python, "-S", "-s", "-P", "-B", "-c", _BOOT, root, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )

    def _introduce(self, setup: dict[str, Any]) -> bytes:
        """Tell it how; what it answers, b"" when nothing."""
        self.control.settimeout(_START_S if len(setup["preimport"]) < 2 else 4 * _START_S)  # pandas takes its time
        try:
            self.control.send(json.dumps(setup).encode())
            return self.control.recv(1 << 16)
        except (TimeoutError, OSError) as error:
            log.debug("zygote start: %s", error)
            return b""

    def close(self) -> str:
        """Stop it and everything under it. Its last words, or how it ended."""
        self._theirs.close()
        self.control.close()
        last_words = self._stop_process()
        folder, self.scratch = self.scratch, ""
        if folder:
            scratch.remove(folder)
        if self.group is not None:
            self.group.close()
            self.group = None
        return last_words

    def _stop_process(self) -> str:
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
