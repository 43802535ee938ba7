"""What a process that starts others needs: exit codes that mean something, children that do not outlive it."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

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
