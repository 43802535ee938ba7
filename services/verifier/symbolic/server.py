"""The warm process: imports and exercises math-verify once, then forks workers that inherit all of it."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any

from rgopd.verifier.sandbox import kernel, landlock, seccomp
from rgopd.verifier.symbolic import answers

_MEMORY = 2 << 30


def main(control_fd: int) -> None:
    """Serve fork orders until the supervisor closes the socket."""
    logging.disable(logging.CRITICAL)  # math-verify logs whole responses
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    control = socket.socket(fileno=control_fd)
    answers.warm_up()
    syscalls = seccomp.Filter(seccomp.policy(processes=False, signals=False, metadata=False))
    folders = {sys.prefix, sys.base_prefix, *(p for p in sys.path if p), "/usr", "/lib", "/lib64"}
    version = landlock.abi()
    files = landlock.ruleset([(path, landlock.READ) for path in sorted(folders)], version) if version else -1
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        packet, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not packet:
            _end_workers()
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _work(fds[0], syscalls, files)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [str(pid).encode()], [pidfd])
        os.close(pidfd)
        os.close(fds[0])


def _end_workers() -> None:
    """The workers are this session's only other processes; wait for them, so that no zombie is left to others."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    try:
        while True:
            os.wait()  # returns only by the error below: the kernel reaps, see SIGCHLD
    except ChildProcessError:
        return


def _work(fd: int, syscalls: seccomp.Filter, files: int) -> None:
    """Answer until the socket closes. Confined too: a parser is only as safe as its least careful dependency."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if files >= 0:
        landlock.restrict(files)
    syscalls.install()
    sock = socket.socket(fileno=fd)
    while (question := _receive(sock)) is not None:
        answer = _answer(question)
        body = json.dumps(answer).encode()
        sock.sendall(struct.pack("=I", len(body)) + body)
    os._exit(0)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        return answers.judge(question)
    except (RecursionError, MemoryError) as error:
        return {"status": "error", "reason": f"{type(error).__name__} while judging"}
    except Exception as error:  # noqa: BLE001 - the worker's outermost loop
        return {"status": "error", "reason": f"{type(error).__name__}: {error}"[:300]}


def _receive(sock: socket.socket) -> dict[str, Any] | None:
    head = _exactly(sock, 4)
    body = _exactly(sock, struct.unpack("=I", head)[0]) if head else None
    return json.loads(body) if body else None


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        if not select.select([sock], [], [])[0]:
            continue
        part = sock.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
