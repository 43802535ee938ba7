"""The few system calls that Python has no name for, by ctypes on the running libc."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD = 0x00010000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MS_NOSYMFOLLOW = 256
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 23, 24, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_AT_RECURSIVE = 0x8000
_X86 = platform.machine() == "x86_64"
_NR = {  # (x86_64, every other 64-bit architecture: asm-generic)
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}


Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments, converted: made before a fork, so that the child only has to make the call."""


def make(calls: Iterable[Call]) -> None:
    """Make calls in turn. Raises OSError with the name of the one that answers -1."""
    for function, arguments in calls:
        if function(*arguments) == -1:
            _check(-1, f"{function.__name__}{arguments}")


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(name: str, *args: int | bytes | None) -> int:
    """Call by name; raises OSError with the call's name."""
    number = _number(name)
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), name)


def _number(name: str) -> int:
    return _NR[name][0 if _X86 else 1]


def unshare(flags: int) -> None:
    """unshare(2)."""
    make([unshare_call(flags)])


def unshare_call(flags: int) -> Call:
    """The same, for later."""
    return _libc.unshare, (ctypes.c_int(flags),)


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    function, arguments = mount_call(source, target, fstype, flags, data)
    _check(function(*arguments), f"mount {fstype or source} on {target}")


def mount_call(source: str, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> Call:
    """The same, for later."""
    text = [ctypes.c_char_p(None if part is None else part.encode()) for part in (source, target, fstype, data)]
    return _libc.mount, (*text[:3], ctypes.c_ulong(flags), text[3])


def unmount_lazily(target: str) -> None:
    """umount2(MNT_DETACH)."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def make_readonly(path: str, *, recursive: bool = True) -> None:
    """Read-only, nosuid, for this mount and those below (mount_setattr(2), kernel 5.12)."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    syscall("mount_setattr", -100, path.encode(), _AT_RECURSIVE if recursive else 0, attributes, len(attributes))


def pivot_into(root: str) -> None:
    """Make `root` (a mount point) the root folder, and let go of the old one."""
    os.chdir(root)
    syscall("pivot_root", b".", b".")  # stacks the old root over the new one, so no put_old folder is needed
    unmount_lazily(".")
    os.chdir("/")


def prctl(option: int, value: int = 0, third: int | bytes = 0) -> None:
    """prctl(2)."""
    function, arguments = prctl_call(option, value, third)
    _check(function(*arguments), f"prctl({option})")


def prctl_call(option: int, value: int = 0, third: int | bytes = 0) -> Call:
    """The same, for later."""
    last = ctypes.c_ulong(third) if isinstance(third, int) else ctypes.c_char_p(third)
    zero = ctypes.c_ulong(0)
    return _libc.prctl, (ctypes.c_int(option), ctypes.c_ulong(value), last, zero, zero)


def drop_capabilities() -> list[Call]:
    """Calls that empty every capability set, and keep exec from filling them again."""
    calls = [prctl_call(PR_SET_SECUREBITS, 0x2F)]  # NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off and locked
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_READ, capability)
        except OSError:  # past the last one this kernel knows
            break
        calls.append(prctl_call(PR_CAPBSET_DROP, capability))
    nothing = (ctypes.c_char_p(struct.pack("=II", 0x20080522, 0)), ctypes.c_char_p(bytes(24)))
    return [*calls, (_libc.syscall, (ctypes.c_long(_number("capset")), *nothing))]


def process_cpu_seconds(pid: int) -> float:
    """CPU seconds of a live process, all threads, user and system (the clock of clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)
