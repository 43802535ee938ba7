"""The writable folder of a slot on rung 3: made, emptied between checks, swept up after services that were killed."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "rgopd-slot-"
_STALE_S = 3600


def make(uid: int | None) -> str:
    """A new folder of this process's, owned by `uid` where the slot has one."""
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    if uid is not None:
        os.chown(folder, uid, uid)
    return folder


def check_room(folder: str, megabytes: int) -> None:
    """Raise OSError where its disk is full: what a check would write fails by no fault of the code under test."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < megabytes << 20:
        raise OSError(errno.ENOSPC, f"less than {megabytes} MB are left for what code under test may write", folder)


def empty(folder: str) -> None:
    """Delete what is in a folder, also where the code under test took its own rights away.

    By descriptors and without descending: code can nest folders deeper than a path, a recursion or a table of
    descriptors reaches, so folders within folders are moved up instead.
    """
    os.chmod(folder, 0o700)
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        while names := os.listdir(top):
            for name in names:
                if _is_folder(name, top):
                    _flatten(name, top)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)


def _flatten(name: str, top: int) -> None:
    """Remove one folder; the folders in it become its siblings."""
    os.chmod(name, 0o700, dir_fd=top)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for child in os.listdir(inner):
            if _is_folder(child, inner):
                os.chmod(child, 0o700, dir_fd=inner)  # moving a folder writes into it
                os.rename(child, f".{secrets.token_hex(12)}", src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def remove(folder: str) -> None:
    """Delete a folder; one that resists stays behind with a warning, and its slot takes a new one."""
    try:
        empty(folder)
        os.rmdir(folder)
    except OSError as error:
        log.warning("the folder %s stays behind: %s", folder, error)


def sweep() -> None:
    """Remove folders of services that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        try:
            if not os.path.exists(f"/proc/{pid}") and time.time() - folder.stat().st_mtime > _STALE_S:
                empty(str(folder))
                folder.rmdir()
        except OSError:  # another user's, or gone
            continue
