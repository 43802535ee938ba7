"""Settings of the verifier service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from rgopd.common.settings import ServiceSettings
from rgopd.verifier.environment_config import EnvironmentConfig
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.spec import OnTruncated
from rgopd.verifier.toolchains import Toolchain


def default_workers() -> int:
    """One a core this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, len(allowed))


class VerifierConfig(ServiceSettings):
    """`rgopd verifier`: the same keys in YAML, RGOPD_* environment and --set."""

    rung: Literal["auto", "1", "2", "3"] = Field(
        "auto", description="Isolation: the service does not start below this rung; auto: the best there is."
    )
    workers: int = Field(0, ge=0, le=256, description="Sandbox slots; 0: one a core.")
    math_workers: int = Field(0, ge=0, le=256, description="math-verify processes; 0: one a core.")
    math_deadline_s: float = Field(2.0, gt=0, description="CPU seconds for one mathematical answer.")
    queue_size: int = Field(4096, ge=1, description="Items accepted and unfinished; beyond: 429.")
    max_items: int = Field(1024, ge=1, description="Items in one call.")
    cache_size: int = Field(10_000, ge=0, description="Verdicts kept by content; 0: none.")

    cpu_s: float = Field(5.0, gt=0, description="CPU seconds of one process under test.")
    wall_s: float = Field(20.0, gt=0, description="Wall seconds of one process under test; ends what waits for ever.")
    memory_mb: int = Field(512, ge=64, description="Memory of one process under test.")
    processes: int = Field(32, ge=1, description="Processes and threads of one check.")
    file_mb: int = Field(16, ge=1, description="All files of one check together.")
    output_bytes: int = Field(1 << 20, ge=1024, description="Standard output of one process.")
    open_files: int = Field(64, ge=16, description="Open files of one process under test.")
    max_cpu_s: float = Field(60.0, gt=0, description="The most that an item's limits may ask for.")
    max_wall_s: float = Field(120.0, gt=0, description="The most wall seconds that an item may ask for.")
    max_memory_mb: int = Field(4096, ge=64, description="The most memory that an item may ask for.")

    truncated: OnTruncated = Field(
        "grade", description="Items marked truncated: judged as they are, failed, or error (no reward)."
    )
    python_graders: dict[str, Path] = Field({}, description="kind python: name -> file with grade(response, **args).")
    environments: dict[str, EnvironmentConfig] = Field(
        {}, description="Environments of several turns: name -> file, or URL of a server (docs/environments.md)."
    )
    toolchains: dict[str, Toolchain] = Field({}, description="More languages, or other commands for the known ones.")

    python: str = Field("", description="Interpreter for code under test; empty: this one's base.")
    readable: list[str] = Field([], description="More folders that code under test may read.")
    packages: list[str] = Field(
        ["numpy", "sympy", "pandas", "scipy", "networkx", "sortedcontainers", "regex"],
        description="Libraries that code under test may import, as far as its interpreter has them.",
    )
    preimport: list[str] = Field([], description="More modules imported before forking.")
    uid_base: int = Field(0, ge=0, description="As root: first uid for slots; 0: chosen by process id.")
    recycle_after: int = Field(20_000, ge=1, description="Checks after which a sandbox interpreter is replaced.")

    def default_limits(self) -> Limits:
        """For items that do not say."""
        return Limits(
            cpu_s=self.cpu_s,
            wall_s=self.wall_s,
            memory_mb=self.memory_mb,
            processes=self.processes,
            file_mb=self.file_mb,
            output_bytes=self.output_bytes,
            open_files=self.open_files,
        )

    def maximum_limits(self) -> Limits:
        """What items may ask for."""
        return Limits(
            cpu_s=max(self.cpu_s, self.max_cpu_s),
            wall_s=max(self.wall_s, self.max_wall_s),
            memory_mb=max(self.memory_mb, self.max_memory_mb),
            processes=max(self.processes, 256),
            file_mb=max(self.file_mb, 256),
            output_bytes=max(self.output_bytes, 16 << 20),
            value_bytes=64 << 20,
            open_files=max(self.open_files, 1024),
        )
