"""A Docker engine and docker-compose, driven by command line: what the compose test needs of them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def say(text: str) -> None:
    """A line of the log that is kept under docs/logs."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Engine:
    """Docker and Compose with one environment. DOCKER and COMPOSE may name other binaries."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1", **environment}
        self.docker_command = shlex.split(os.environ.get("DOCKER", "docker"))
        self.compose_command = shlex.split(os.environ.get("COMPOSE", "") or self._find_compose())

    def _find_compose(self) -> str:
        v2 = subprocess.run([*self.docker_command, "compose", "version"], capture_output=True, check=False)
        return "docker compose" if v2.returncode == 0 else "docker-compose"

    def run(self, argv: list[str], *, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
        """Run in the repository's root; stdout. A failure shows the end of both streams and raises."""
        merged = {**self.environment, **(environment or {})}
        done = subprocess.run(argv, cwd=ROOT, env=merged, capture_output=True, text=True, check=False)
        if check and done.returncode:
            sys.stdout.write(f"$ {shlex.join(argv)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n")
            raise AssertionError(f"{argv[0]} exited with {done.returncode}")
        return done.stdout

    def docker(self, *arguments: str, check: bool = True) -> str:
        """`docker ARGUMENTS`."""
        return self.run([*self.docker_command, *arguments], check=check)

    def compose(self, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
        """`docker compose ARGUMENTS`."""
        return self.run([*self.compose_command, *arguments], check=check, environment=environment)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, stopped ones too."""
        label = f"label=com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}"
        found = self.docker("ps", "-aq", "--filter", label, "--filter", f"label=com.docker.compose.service={service}")
        return found.split()

    def inspect(self, container: str) -> dict[str, Any]:
        """`docker inspect` of one container."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container))
        return found[0]

    def python(self, container: str, program: str, *, check: bool = True) -> str:
        """Run a Python program inside a container, as the service's user."""
        return self.docker("exec", container, "python", "-c", program, check=check)

    def kill_inside(self, container: str) -> None:
        """SIGKILL to the service under the container's init: a crash, which the restart policy repairs."""
        self.docker("exec", container, "sh", "-c", "kill -9 -1", check=False)


def wait_for(what: str, test: Callable[[], bool], timeout_s: float, every_s: float = 1.0) -> float:
    """Poll until `test` holds; seconds waited. AssertionError after `timeout_s`."""
    started = time.monotonic()
    while not test():
        waited = time.monotonic() - started
        assert waited < timeout_s, f"{what}: not after {waited:.0f} s"
        time.sleep(every_s)
    return time.monotonic() - started
