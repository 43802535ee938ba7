"""What one check may use."""

from __future__ import annotations

import math
import resource
from typing import Any, NamedTuple

from rgopd.verifier.sandbox import kernel

_INTERPRETER_MB = 64  # address space of the zygote, and of the stacks of some threads


class Limits(NamedTuple):
    """Per process under test. The verdict follows CPU time; wall time only ends what waits for ever."""

    cpu_s: float = 5.0
    wall_s: float = 20.0
    memory_mb: int = 512
    processes: int = 32
    file_mb: int = 16
    output_bytes: int = 1 << 20
    value_bytes: int = 4 << 20
    open_files: int = 64

    def as_dict(self) -> dict[str, Any]:
        """For the wire."""
        return self._asdict()


def calls(limits: Limits, *, address_space: bool = True, processes: int | None) -> list[kernel.Call]:
    """What sets the rlimits of the process that makes these calls, soft and hard, to be made in a fork of this one.

    Args:
        address_space: bound virtual memory too, so that Python raises MemoryError before anything is killed.
            Off for runtimes that reserve far more than they use (node).
        processes: how many processes and threads the uid may have in all; None: no bound.
    """
    wanted = {
        resource.RLIMIT_CPU: math.ceil(limits.cpu_s) + 1,  # the zygote ends it at cpu_s; this works even if it is late
        resource.RLIMIT_FSIZE: limits.file_mb << 20,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if address_space:
        wanted[resource.RLIMIT_AS] = (limits.memory_mb + _INTERPRETER_MB) << 20
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = processes
    made: list[kernel.Call] = []
    for what, value in wanted.items():
        hard = resource.getrlimit(what)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        made.append((resource.setrlimit, (what, (bound, bound))))
    return made
