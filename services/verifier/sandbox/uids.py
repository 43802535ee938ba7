"""Uids that belong to one slot of one verifier, so that limits counted per uid count one check alone."""

from __future__ import annotations

import os

_HIGH_BASE = 1 << 30  # far above what people and containers hand out


def slot_uids(slot: int, base: int = 0) -> tuple[int | None, int | None]:
    """(uid for the code under test, uid for test code), or (None, None) when this process cannot change its uid.

    Args:
        slot: 0, 1, ...
        base: first uid to use; 0 chooses by this process's pid, so that two verifiers on a host do not share.
    """
    if os.geteuid() != 0:
        return None, None
    first = base or _HIGH_BASE + (os.getpid() << 8)
    uid = first + 2 * slot
    if not _mapped(uid + 1):
        uid = 50_000 + 2 * slot + (os.getpid() % 50) * 200  # a container whose uids end at 65,535
    return uid, uid + 1


def _mapped(uid: int) -> bool:
    with open("/proc/self/uid_map") as file:
        return any(int(first) <= uid < int(first) + int(count) for first, _, count in map(str.split, file))
