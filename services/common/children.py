"""What a process that starts others needs: exit codes that mean something, children that do not outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

PERMANENT = 2
"""Exit code: trying again cannot help. A wrong setting, a broken verifier, a teacher that answers NaN."""

PAUSED = 75
"""Exit code: asked to stop, saved, and not done (EX_TEMPFAIL). Not 0: a cluster takes a pod that ended with 0 for
finished, and a pre-empted run would never go on."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def be_killed_with_parent() -> None:
    """Called by a child whose parent cannot pass `preexec_fn`: SIGKILL when the parent is gone.

    For the ranks under torchrun: it puts each into a session of its own, where nobody who cleans up after a launcher
    that was killed would find them, and an orphaned rank would hold the run folder against its successor.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


die_with_parent: Callable[[], None] | None = _die_with_parent if sys.platform == "linux" else None
"""For `preexec_fn`: the child gets SIGTERM when the thread that started it is gone, however it went."""

T = TypeVar("T")
_making = threading.Lock()
_lasting: dict[int, ThreadPoolExecutor] = {}
"""By process: a fork has none of its parent's threads."""


def in_lasting_thread(start: Callable[[], T]) -> T:
    """`start()` in a thread that ends when this process does, since a child that dies with its parent dies with the
    thread that started it: the caller's may be a worker of an event loop or of a web server."""
    if threading.current_thread() is threading.main_thread():
        return start()
    with _making:  # an executor that lost its place would end its thread, and with it the child
        lasting = _lasting.setdefault(os.getpid(), ThreadPoolExecutor(1, "children"))
    return lasting.submit(start).result()
