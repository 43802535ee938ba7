"""Attacking our own sandbox before trusting it. Each attack is a program that tries, and evidence it cannot fake:
what the host sees afterwards, or what the program could only print if it got through."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.slot import Slot

_LIMITS = Limits(cpu_s=3.0, wall_s=10.0, memory_mb=128, processes=24, file_mb=4)

_SOCKET = """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            socket.socket(family, kind)
            print("GOT THROUGH", family, kind)
        except OSError:
            pass
"""
_READ = """
import os
for path in ({path!r}, "/proc/1/root" + {path!r}, "/proc/{pid}/root" + {path!r}, "/proc/{pid}/environ", "/etc/shadow"):
    try:
        print("GOT THROUGH", path, open(path, "rb").read()[:4096])
    except OSError:
        pass
"""
_WRITE = """
import os
for path in ({folder!r} + "/written", "/usr/rgopd-probe", "/etc/rgopd-probe", "/dev/shm/../rgopd-probe"):
    try:
        open(path, "w").write("x")
        print("GOT THROUGH", path)
    except OSError:
        pass
for change in (lambda: os.chmod({folder!r}, 0o700), lambda: os.fchmod(os.open({folder!r}, os.O_RDONLY), 0o700)):
    try:
        change()
    except OSError:
        pass
"""
_FORK = """
import os, time
n = 0
for _ in range(1000):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        time.sleep(5)
        os._exit(0)
    n += 1
print("FORKED" if n < 900 else "GOT THROUGH", n, flush=True)
os._exit(0)
"""
_MEMORY = """
import os, time
keep = bytearray(64 << 20)
for _ in range(8):
    try:
        if os.fork() == 0:
            break
    except OSError:
        pass
more = [bytearray(b"x" * (60 << 20))]
time.sleep(0.6)
print("HELD", flush=True)
"""
_OTHERS = """
import os
seen = 0
for pid in {pids}:
    try:
        os.kill(pid, 0)
        print("GOT THROUGH kill", pid)
    except OSError:
        pass
    try:
        open(f"/proc/{{pid}}/mem", "rb").read(1)
        print("GOT THROUGH mem", pid)
    except OSError:
        pass
    try:
        print("GOT THROUGH cmdline", open(f"/proc/{{pid}}/cmdline", "rb").read()[:99])
    except OSError:
        pass
"""
_SURVIVE = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
os._exit(0)
"""


@dataclass(frozen=True)
class Probe:
    """One attack: makes the program, and judges what came of it ('' or what went wrong)."""

    name: str
    program: str
    judge: Callable[[Finished], str]


def silent(end: Finished) -> str:
    """Nothing got through."""
    return end.stdout.decode(errors="replace")[:200] if b"GOT THROUGH" in end.stdout else ""


def _bounded_forks(end: Finished) -> str:
    return "" if b"FORKED" in end.stdout else f"forks were not bounded: {end.stdout[:100]!r} {end.stderr[-100:]!r}"


def _bounded_memory(end: Finished) -> str:
    # 128 MB were allowed: at most one of the processes, which hold 124 MB each, may have got to the end.
    held = end.stdout.count(b"HELD")
    return "" if held <= 1 else f"{held} processes held 124 MB each under a limit of 128 MB"


def _nothing_left(end: Finished) -> str:
    return "" if end.alone else "a process outlived its check"


def run_probes(slot: Slot) -> dict[str, str]:
    """Attack through a slot; name -> '' (held) or what got through.

    Raises:
        SandboxError: an attack broke the sandbox itself.
    """
    with tempfile.TemporaryDirectory(prefix="rgopd-probe-") as folder:
        os.chmod(folder, 0o777)
        secret = Path(folder, "secret")
        token = secrets.token_hex(16)
        secret.write_text(token)
        secret.chmod(0o444)
        probes = [
            Probe("network", _SOCKET, silent),
            Probe("read_outside", _READ.format(path=str(secret), pid=os.getpid()), silent),
            Probe("write_outside", _WRITE.format(folder=folder), silent),
            Probe("fork_bomb", _FORK, _bounded_forks),
            Probe("memory", _MEMORY, _bounded_memory),
            Probe("other_processes", _OTHERS.format(pids=_outside(slot.settings.rung)), silent),
            Probe("survivors", _SURVIVE, _nothing_left),
        ]
        report = {probe.name: _run(slot, probe) for probe in probes}
        if stat.S_IMODE(os.stat(folder).st_mode) != 0o777:
            report["write_outside"] = "the rights of a folder outside of the sandbox were changed"
        elif sorted(os.listdir(folder)) != ["secret"]:
            report["write_outside"] = "a file appeared outside of the sandbox"
        return report


def _outside(rung: int) -> list[int]:
    """Processes of ours that a check must not reach, by their numbers.

    A pid namespace numbers its own processes from 1, so there a small number names one of its own: under init or in a
    container (parent or service is pid 1) the sandbox would be blamed for reaching itself.
    """
    smallest = 32 if rung < 3 else 1  # rung 3 has no pid namespace
    return [pid for pid in (os.getpid(), os.getppid()) if pid >= smallest]


def _run(slot: Slot, probe: Probe) -> str:
    """With and without the right to start processes: tools have it, Python code may not."""
    for tool in (False, True):
        end = slot.run(_command(probe, tool))
        slot.after()
        if not tool and probe.name == "fork_bomb" and b"PermissionError" in end.stderr:
            continue
        problem = probe.judge(end)
        if problem:
            return problem
    return ""


def _command(probe: Probe, tool: bool) -> Command:
    limits = _LIMITS._replace(memory_mb=256 if probe.name != "memory" else 128)
    return Command("main", limits, {"program": probe.program}, tool=tool)


def require_all_held(slot: Slot) -> dict[str, str]:
    """Run the probes; name -> "held".

    Raises:
        SandboxError: something got through; the text says what.
    """
    report = run_probes(slot)
    broken = {name: problem for name, problem in report.items() if problem}
    if broken:
        raise SandboxError("probe: " + "; ".join(f"{name}: {problem}" for name, problem in broken.items()))
    return dict.fromkeys(report, "held")
