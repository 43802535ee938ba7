"""Giving freed memory back to the system: glibc keeps it for each thread that ever held it."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Return free pages of all of malloc's arenas (malloc_trim(3)); nothing where the C library has no such call."""
    if sys.platform == "linux" and (release := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        release(0)
