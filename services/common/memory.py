"""Giving freed memory back to the system: glibc keeps it for each thread that held it, and in between what is held."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Return free pages of all of malloc's arenas (malloc_trim(3)); nothing where the C library has no such call."""
    if sys.platform == "linux" and (release := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        release(0)


LARGE = 4 << 20
"""Bytes from which on a block is worth its page faults."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def give_back_large_blocks() -> None:
    """From now on what is freed of blocks of `LARGE` bytes is the system's again at once (mallopt(3)).

    glibc begins so, and moves the limit up to 32 MiB as such blocks are freed: then a layer's activations lie on the
    heap between what outlives them, and stay there. Nothing where the C library has no such call.
    """
    if sys.platform == "linux" and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(_M_MMAP_THRESHOLD, LARGE)
        # Either option fixes both: with the other at its first 128 KiB each free of a smaller block would fault anew.
        set_option(_M_TRIM_THRESHOLD, 2 * LARGE)
