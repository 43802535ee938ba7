"""Landlock (landlock(7)): what a process may open, without any privilege. Used where mount namespaces are refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from rgopd.verifier.sandbox import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_ALL_V1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_NET_BIND, _NET_CONNECT = 1, 2
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1, 2
READ = READ_FILE | READ_DIR
READ_EXECUTE = READ | EXECUTE
_FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV


def abi() -> int:
    """The kernel's Landlock version; 0: none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def handled_rights(version: int) -> int:
    """Every file right that this version can refuse."""
    rights = _ALL_V1
    rights |= _REFER if version >= 2 else 0
    rights |= _TRUNCATE if version >= 3 else 0
    return rights | (_IOCTL_DEV if version >= 5 else 0)


def ruleset(rules: Iterable[tuple[str, int]], version: int) -> int:
    """A descriptor of rules that refuse every file access except `rights` below each path, all TCP, and (where the
    kernel can) signals and abstract sockets that leave the domain. Paths that do not exist are skipped.

    Raises:
        OSError: Landlock is not there or refused the rules.
    """
    handled = handled_rights(version)
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _NET_BIND | _NET_CONNECT)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL)
    fd = kernel.syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    for path, rights in rules:
        _allow(fd, path, rights & handled)
    return fd


def restrict(rules: int) -> None:
    """Put the calling process, and what it will fork, under a ruleset; for good."""
    kernel.syscall("landlock_restrict_self", rules, 0)


def everything(version: int) -> int:
    """All rights: for a folder that is the process's own."""
    return handled_rights(version) & ~_IOCTL_DEV


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not os.path.isdir(path):
            rights &= _FILE_ONLY
        kernel.syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)
