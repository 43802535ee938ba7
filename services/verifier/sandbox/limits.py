"""What one check may use."""

from __future__ import annotations

import math
import resource
from typing import Any, NamedTuple

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

    @classmethod
    def of(cls, values: dict[str, Any]) -> Limits:
        """The inverse of `as_dict`; unknown keys are dropped."""
        return cls(**{k: v for k, v in values.items() if k in cls._fields})


def apply(limits: Limits, *, address_space: bool = True, processes: int | None) -> None:
    """Set the calling process's rlimits, soft and hard.

    Args:
        address_space: bound virtual memory too, so that Python raises MemoryError before anything is killed.
            Off for runtimes that reserve far more than they use (node).
        processes: how many processes and threads the uid may have in all; None: no bound.
    """
    backstop = math.ceil(limits.cpu_s) + 1  # the zygote ends it at cpu_s; this works even if the zygote is late
    _set(resource.RLIMIT_CPU, backstop)
    _set(resource.RLIMIT_FSIZE, limits.file_mb << 20)
    _set(resource.RLIMIT_NOFILE, limits.open_files)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_MEMLOCK, 0)
    _set(resource.RLIMIT_MSGQUEUE, 0)
    if address_space:
        _set(resource.RLIMIT_AS, (limits.memory_mb + _INTERPRETER_MB) << 20)
    if processes is not None:
        _set(resource.RLIMIT_NPROC, processes)


def _set(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))
