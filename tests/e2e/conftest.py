from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import waiting

Rgopd = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def rgopd(tmp_path: Path) -> Iterator[Rgopd]:
    """Start `rgopd ARGUMENTS` as a user would; whatever still runs afterwards is stopped."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rgopd.cli.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() and process.stderr is not None and not process.stderr.closed:
            # Shown when a test fails.
            print(f"{process.args} exited with {process.returncode}:\n{process.stderr.read()}")
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def ready_url(process: subprocess.Popen[str]) -> str:
    """The URL of a service's ready line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert " ready at " in line, (line, process.stderr.read() if process.stderr and process.poll() is not None else "")
    return line.rpartition(" ready at ")[2].strip()


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition of a whole run holds."""
    waiting.eventually(condition, timeout_s=600, every_s=0.1)


def processes_naming(text: str) -> list[str]:
    """Command lines of running processes that mention `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found
