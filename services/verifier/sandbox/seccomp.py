"""The syscall filter: an allowlist, as classic BPF, attached with prctl(PR_SET_SECCOMP).

What is not listed answers EPERM: sockets, mounts, namespaces, ptrace, bpf, io_uring, keyctl, userfaultfd,
process_vm_*, pidfd_*, perf, module and clock calls, and whatever the next kernel adds.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from typing import NamedTuple

from rgopd.verifier.sandbox import kernel
from rgopd.verifier.sandbox.syscall_numbers import AUDIT_ARCH, numbers

_LD, _JEQ, _JGE, _JSET, _RET, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
KILL_PROCESS = 0x80000000
_NR_OFFSET, _ARCH_OFFSET = 0, 4
_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class Rule(NamedTuple):
    """Allow when argument number `argument`, masked, is one of `values` (or, inverted, none of them)."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    invert: bool = False

    def compile(self) -> list[Instruction]:
        """A block that ends in a return on every path. Only the low half is read: all are 32-bit arguments."""
        hit, miss = (EPERM, ALLOW) if self.invert else (ALLOW, EPERM)
        block: list[Instruction] = [(_LD, 0, 0, 16 + 8 * self.argument), (_AND, 0, 0, self.mask)]
        left = len(self.values)
        block += [(_JEQ, left - i, 0, value) for i, value in enumerate(self.values)]
        return [*block, (_RET, 0, 0, miss), (_RET, 0, 0, hit)]


class Both(NamedTuple):
    """Allow when both rules do."""

    first: Rule
    second: Rule

    def compile(self) -> list[Instruction]:
        """The second block in place of the first one's allowing return."""
        return [*self.first.compile()[:-1], *self.second.compile()]


_IOCTLS = Rule(1, (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451))  # tty questions, FIO*
_PRCTLS = Rule(0, (1, 3, 15, 16, 23, 38, 39, 0x53564D41))
# F_SETOWN, F_SETSIG, F_SETOWN_EX send signals to others; F_SETLEASE and F_NOTIFY watch files that are the host's
_FCNTLS = Rule(1, (8, 10, 15, 1024, 1026), invert=True)
_STREAM_PAIRS = Both(Rule(0, (1,)), Rule(1, (1,), mask=0xF))  # asyncio's self-pipe; datagrams could be addressed


LINKS = frozenset(("symlink", "symlinkat", "mknod", "mknodat"))
"""Calls that make links and special files."""
_METADATA = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "utimensat", "flock")


def policy(*, processes: bool, signals: bool, metadata: bool) -> dict[str, int | Rule | Both]:
    """Name -> action.

    Args:
        processes: fork and exec are allowed (threads always are).
        signals: kill() is allowed, since a pid namespace confines it.
        metadata: rights, times and locks of files may be changed, since a root or a uid of their own confines that.
            Landlock does not: code under the service's own uid would reach every file of the service's. (chown and
            extended attributes are never allowed.)
    """
    special = {"clone", "clone3", "fork", "vfork", "execve", "execveat", "kill", "tgkill"}
    table: dict[str, int | Rule | Both] = {name: ALLOW for name in numbers() if name not in special}
    table.update(ioctl=_IOCTLS, prctl=_PRCTLS, fcntl=_FCNTLS, socketpair=_STREAM_PAIRS, prlimit64=Rule(0, (0,)))
    table["clone3"] = ENOSYS  # its flags are behind a pointer; libc falls back to clone
    threads_only = Rule(0, (kernel.CLONE_THREAD,), mask=kernel.CLONE_THREAD | _NAMESPACES)
    table["clone"] = Rule(0, (0,), mask=_NAMESPACES) if processes else threads_only
    table.update(dict.fromkeys(("fork", "vfork", "execve", "execveat"), ALLOW if processes else EPERM))
    table.update(dict.fromkeys(("kill", "tgkill"), ALLOW if signals else EPERM))
    table.update(dict.fromkeys(_METADATA, ALLOW if metadata else EPERM))
    known = numbers()
    return {name: action for name, action in table.items() if name in known}


def program(table: dict[str, int | Rule | Both]) -> bytes:
    """Compile to BPF. A binary search over ranges of numbers: the kernel runs the filter once for every
    number when it is installed, so a long chain of comparisons would cost more than the fork."""
    machine = platform.machine()
    if machine not in AUDIT_ARCH:
        raise OSError(f"no syscall table for {machine}")
    known = numbers()
    actions = sorted((known[name], action) for name, action in table.items() if action != EPERM)
    segments: list[tuple[int, int | Rule | Both]] = [(0, EPERM)]
    for number, action in actions:
        if segments[-1][0] == number:
            segments.pop()
        if not segments or segments[-1][1] != action:
            segments.append((number, action))
        segments.append((number + 1, EPERM))
    merged = [s for i, s in enumerate(segments) if i == 0 or s[1] != segments[i - 1][1]]
    head: list[Instruction] = [
        (_LD, 0, 0, _ARCH_OFFSET),
        (_JEQ, 1, 0, AUDIT_ARCH[machine]),
        (_RET, 0, 0, KILL_PROCESS),  # 32-bit calls have other numbers
        (_LD, 0, 0, _NR_OFFSET),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in head + _tree(merged))


class Filter:
    """A compiled policy, ready to be attached."""

    def __init__(self, table: dict[str, int | Rule | Both]) -> None:
        compiled = program(table)
        self._buffer = ctypes.create_string_buffer(compiled, len(compiled))
        self._fprog = struct.pack("=H6xQ", len(compiled) // 8, ctypes.addressof(self._buffer))

    def install(self) -> None:
        """Attach to the calling thread and what it will fork. Needs no-new-privileges set.

        Raises:
            OSError: the kernel refused it.
        """
        kernel.prctl(kernel.PR_SET_SECCOMP, 2, self._fprog)


def _tree(segments: list[tuple[int, int | Rule | Both]]) -> list[Instruction]:
    if len(segments) == 1:
        action = segments[0][1]
        return [(_RET, 0, 0, action)] if isinstance(action, int) else action.compile()
    middle = len(segments) // 2
    low, high = _tree(segments[:middle]), _tree(segments[middle:])
    if len(low) <= 255:
        return [(_JGE, len(low), 0, segments[middle][0]), *low, *high]
    # A jump reaches 255 instructions; the unconditional one reaches all.
    return [(_JGE, 0, 1, segments[middle][0]), (0x05, 0, 0, len(low)), *low, *high]
