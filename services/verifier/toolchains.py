"""Other languages: how to compile and run a program, by language."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydantic import Field

from rgopd.common.parts import Part
from rgopd.verifier.sandbox.limits import Limits


class Toolchain(Part):
    """A language. `{file}` in the commands is the source, `{out}` the compiled program.

    The program names have to be absolute paths, or are looked up on this service's PATH at start.
    """

    file: str = Field(pattern=r"^[\w.-]+$", description="The source's name in the sandbox, e.g. main.cpp")
    compile: list[str] = Field([], description="Empty: the source is run as it is.")
    run: list[str] = Field(min_length=1, description="Command that runs it.")
    compile_cpu_s: float = Field(20.0, description="CPU seconds of the compiler.")
    compile_memory_mb: int = Field(1024, description="Memory of the compiler.")

    def compile_limits(self, limits: Limits) -> Limits:
        """A compiler needs more than the program."""
        return limits._replace(
            cpu_s=max(limits.cpu_s, self.compile_cpu_s),
            wall_s=max(limits.wall_s, 4 * self.compile_cpu_s),
            memory_mb=max(limits.memory_mb, self.compile_memory_mb),
            file_mb=max(limits.file_mb, 64),
            output_bytes=max(limits.output_bytes, 32 << 20),
        )


@dataclass(frozen=True)
class Toolchains:
    """The languages that work here."""

    by_language: Mapping[str, Toolchain]

    @property
    def languages(self) -> list[str]:
        """Python always; others in alphabetical order."""
        return ["python", *sorted(self.by_language)]


_DEFAULTS = {
    "bash": Toolchain(file="main.sh", run=["bash", "{file}"]),
    "javascript": Toolchain(file="main.js", run=["node", "{file}"]),
    "cpp": Toolchain(file="main.cpp", compile=["g++", "-O2", "-std=c++17", "-o", "{out}", "{file}"], run=["{out}"]),
}


def find_toolchains(configured: Mapping[str, Toolchain]) -> Toolchains:
    """The default languages whose programs are installed, and the configured ones.

    Raises:
        ValueError: a configured program is not there.
    """
    found = {name: resolved for name, chain in _DEFAULTS.items() if (resolved := _resolve(chain)) is not None}
    for name, chain in configured.items():
        resolved = _resolve(chain)
        if resolved is None:
            raise ValueError(f"toolchain {name!r}: {chain.compile[:1] or chain.run[:1]} is not installed")
        found[name] = resolved
    return Toolchains(found)


def _resolve(chain: Toolchain) -> Toolchain | None:
    changes = {}
    for part in ("compile", "run"):
        command: list[str] = getattr(chain, part)
        if command and not command[0].startswith("{"):
            path = _which(command[0])
            if path is None:
                return None
            changes[part] = [path, *command[1:]]
    return chain.model_copy(update=changes)


@lru_cache(maxsize=64)
def _which(program: str) -> str | None:
    path = shutil.which(program)
    return os.path.abspath(path) if path else None
