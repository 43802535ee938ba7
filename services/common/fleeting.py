"""Looks at files that others delete, rename or replace at any moment: what has gone is no error, it is not there.

To ask whether a file exists and then to look at it is two looks, and it may go in between. Python's own `Path.glob`,
`rglob` and `iterdir` raise where a folder vanishes while they list it, on NFS a reader of a file that was replaced gets
ESTALE, and one of a file under /proc whose process ended after it was opened gets ESRCH.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ESRCH)


def seen(look: Callable[[], T], otherwise: U) -> T | U:
    """What a look finds, or `otherwise` where there is nothing (any more). Other OSErrors are raised."""
    try:
        return look()
    except OSError as error:
        if error.errno in _GONE:
            return otherwise
        raise


def size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    return seen(lambda: path.stat().st_size, None)


def changed_ns(path: Path) -> int:
    """When it was last written, in nanoseconds; 0 where there is none."""
    return seen(lambda: path.stat().st_mtime_ns, 0)


def text(path: Path) -> str:
    """A text file, undecodable bytes replaced; empty where there is none."""
    return seen(lambda: path.read_text(encoding="utf-8", errors="replace"), "")


def text_from(path: Path, start: int, most: int = -1) -> str:
    """The bytes of a file from `start` on as text (from its end where that is negative); empty where there is none."""

    def look() -> str:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(start if start >= 0 else max(0, end + start))
            return file.read(most).decode(errors="replace")

    return seen(look, "")


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder, by name; empty where there is none."""
    return [folder / name for name in sorted(seen(lambda: os.listdir(folder), [])) if fnmatchcase(name, pattern)]


def tree_size(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    found = (size(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)
    return sum(each or 0 for each in found)


def standing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(path for path in [folder.resolve(), *folder.resolve().parents] if path.exists())


def disk(folder: Path) -> tuple[int, int]:
    """(device, free bytes) of the disk that a folder is on, or would be on if it were made."""
    while True:
        place = standing(folder)
        if found := seen(lambda: (os.stat(place).st_dev, shutil.disk_usage(place).free), None):  # noqa: B023
            return found
