"""What the host looks like from outside, before and after an attack."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

SECRET = "token-7f3a9c"


class Listeners:
    """TCP, UDP and abstract sockets that nobody should ever reach."""

    def __init__(self, name: str) -> None:
        self.reached: list[str] = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.tcp.getsockname()[1])
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.abstract = f"\0{name}"
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.unix.bind(self.abstract)
        self.unix.listen()
        for sock in (self.tcp, self.unix):
            threading.Thread(target=self._accept, args=(sock,), daemon=True).start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _accept(self, sock: socket.socket) -> None:
        try:
            while True:
                sock.accept()
                self.reached.append("stream")
        except OSError:
            return

    def _receive(self) -> None:
        try:
            while self.udp.recv(1):
                self.reached.append("udp")
        except OSError:
            return

    def close(self) -> None:
        for sock in (self.tcp, self.udp, self.unix):
            sock.shutdown(socket.SHUT_RDWR) if sock is not self.udp else None
            sock.close()


@dataclass(frozen=True)
class Snapshot:
    """Everything that an attack must leave as it was."""

    files: tuple[tuple[str, int, int, str], ...]
    mounts: frozenset[str]
    hostname: str
    environment: int
    descriptors: int
    strangers: frozenset[int]
    systemwide: tuple[bool, ...]


def take(canary: Path, uids: frozenset[int], known: frozenset[int]) -> Snapshot:
    """Look. `uids` are the slots' own; `known` the pids of zygotes, which may run as one of them."""
    files = tuple(
        (entry.name, entry.stat().st_size, entry.stat().st_mode, entry.read_text())
        for entry in sorted(canary.iterdir())
    )
    paths = ("/usr/rgopd-attack", "/tmp/written", "/core", str(Path.cwd() / "core"))
    return Snapshot(
        files=files,
        mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
        hostname=platform.node(),
        environment=canary.stat().st_mode,
        descriptors=len(os.listdir("/proc/self/fd")),
        strangers=frozenset(_owned_by(uids) - known),
        systemwide=tuple(os.path.exists(p) for p in paths),
    )


def _owned_by(uids: frozenset[int]) -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid in uids:
                    found.add(int(name))
            except OSError:
                continue
    return found


def free_bytes() -> int:
    """Disk space of the temporary folder's file system."""
    return shutil.disk_usage("/tmp").free
