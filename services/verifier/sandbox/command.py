"""What is asked of a sandbox, and what comes back: one process to run, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rgopd.common.errors import RgopdError
from rgopd.verifier.sandbox.limits import Limits


class SandboxError(RgopdError):
    """The sandbox could not run a check: nothing is known about the code."""

    kind = "sandbox"


@dataclass(frozen=True)
class Command:
    """One process to run.

    Attributes:
        mode: "calls" | "main" | "exec" | "check".
        payload: JSON for the Python modes.
        stdin: what descriptor 0 holds.
        tool: may start processes and reserve address space (compilers, other languages' runtimes).
        argv: with "exec": the command; the working folder is empty but for `file`.
        file: with "exec": (name, content) of an executable file.
        files: a program and its tests see the files that the other one writes.
    """

    mode: str
    limits: Limits
    payload: dict[str, Any] = field(default_factory=dict)
    stdin: bytes = b""
    tool: bool = False
    argv: tuple[str, ...] = ()
    file: tuple[str, bytes] = ("", b"")
    files: bool = False


@dataclass
class Finished:
    """What a process did.

    `killed` is '' or why it was ended: "cpu", "wall", "starved", "memory", "files", "output", "values", "done".
    """

    code: int | None
    signal: int | None
    cpu_s: float
    wall_s: float
    killed: str
    stdout: bytes = b""
    stderr: bytes = b""
    channel: bytes = b""
    alone: bool = True
    """Every pipe of it has reached its end: no process that held one is left."""
