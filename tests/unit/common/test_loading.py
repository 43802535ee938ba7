"""A service that loads says how far it is; one that is stuck ends with the reason. A real process with a real door."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from rgopd.common.embedded import free_port

SERVICE = """
import sys, time
from prometheus_client import CollectorRegistry
from rgopd.common.http import ServiceState, create_app
from rgopd.common.server import bind, run_http
from rgopd.common.settings import ServiceSettings

port, work = int(sys.argv[1]), sys.argv[2]
settings = ServiceSettings(load_quiet_s=1.5)
state = ServiceState(reason="the model is loading")

def load():
    if work == "reads":
        for _ in range(30):
            open("/dev/zero", "rb").read(1 << 20)
            time.sleep(0.1)
    else:
        time.sleep(1000)

app = create_app("t", state, CollectorRegistry())
sock = bind("127.0.0.1", port)
sys.exit(run_http("teacher", app, settings, state, sock=sock, load=load, drain=lambda: None))
"""


@pytest.fixture
def service(tmp_path: Path):
    started: list[subprocess.Popen[str]] = []

    def start(work: str) -> tuple[subprocess.Popen[str], str]:
        port = free_port()
        argv = [sys.executable, "-c", SERVICE, str(port), work]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path))
        return started[-1], f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.communicate()


def readyz(url: str) -> httpx.Response | None:
    try:
        return httpx.get(f"{url}/readyz")
    except httpx.TransportError:
        return None


def test_it_says_how_far_it_is_and_takes_its_time(service) -> None:
    process, url = service("reads")
    seen, deadline = [], time.monotonic() + 300
    while time.monotonic() < deadline:
        if answer := readyz(url):
            if answer.status_code == 200:
                break
            seen.append(answer.json()["detail"])
        time.sleep(0.1)
    assert process.poll() is None
    assert any("not ready: the model is loading; loading (0.0 GB read" in text for text in seen), seen
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_stuck_load_ends_the_process_with_the_reason(service) -> None:
    process, url = service("sleeps")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "cannot start: stuck while loading" in err
    assert "nothing fetched, read, written or computed" in err
    assert "ready at" not in out
