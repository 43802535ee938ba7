"""CPU time of one check over POST /verify, of the service and of its sandbox apart; load hardly disturbs it.

    python -m benchmarks.verifier.cpu_over_http [CHECKOUT ...] [--checks 1280] [--rung 1] [--packages]

Each CHECKOUT is a working tree of this repository (`git worktree add`), measured in turn, twice: figures before and
after a change, side by side. With --packages each is measured with the default `packages` and with none, in turn, and a
program that imports one is judged before the measurement, so that the warm interpreters for such programs are there.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_SERVE = (
    "import sys;from rgopd.verifier.config import VerifierConfig;from rgopd.verifier.main import serve;"
    "sys.exit(serve(VerifierConfig(cache_size=0,workers=2,math_workers=1,rung=sys.argv[1],port=int(sys.argv[2]),"
    "**({'packages': []} if sys.argv[3] == 'none' else {}))))"
)
_BATCH = 64


def processes(root: int) -> dict[int, int]:
    """Clock ticks of a process and of all below it, those that they have reaped included."""
    found: dict[int, tuple[int, int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(name)] = int(fields[1]), sum(map(int, fields[11:15]))
    mine = {root}
    while more := {pid for pid, (parent, _) in found.items() if parent in mine} - mine:
        mine |= more
    return {pid: found[pid][1] for pid in mine}


def post(port: int, first: int) -> None:
    """One batch of trivial checks, never the same twice."""
    items = [
        {
            "id": str(n),
            "kind": "code",
            "response": f"def f(x):\n    return x + {n}\n",
            "tests": [f"assert f(1) == {n + 1}"],
        }
        for n in range(first, first + _BATCH)
    ]
    body = json.dumps({"items": items}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/verify", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert all(verdict["status"] == "passed" for verdict in next(iter(json.load(answer).values())))


def wait_for(port: int) -> None:
    """Until it is ready."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError("the service does not answer")


def post_import(port: int) -> None:
    """One check of a program that imports a library."""
    item = {
        "id": "p",
        "kind": "code",
        "response": "import numpy\ndef f(): return int(numpy.sum([1, 2]))",
        "tests": ["assert f() == 3"],
    }
    body = json.dumps({"items": [item]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/verify", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=300).close()


def measure(checkout: str, rung: str, checks: int, packages: str = "") -> str:
    """Milliseconds a check."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = subprocess.Popen(
        [sys.executable, "-c", _SERVE, rung, str(port), packages],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": checkout},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        post(port, 10**6)
        if packages == "default":
            post_import(port)
        before = processes(service.pid)
        for first in range(0, checks, _BATCH):
            post(port, first)
        after = processes(service.pid)
    finally:
        service.terminate()
        service.wait(30)
    scale = 1000 / os.sysconf("SC_CLK_TCK") / (-(-checks // _BATCH) * _BATCH)
    own = (after[service.pid] - before[service.pid]) * scale
    every = (sum(after.values()) - sum(before.values())) * scale
    return f"service {own:.2f} ms, sandbox {every - own:.2f} ms, both {every:.2f} ms a check"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", default=[os.getcwd()])
    parser.add_argument("--checks", type=int, default=1280)
    parser.add_argument("--rung", default="1")
    parser.add_argument("--packages", action="store_true")
    options = parser.parse_args()
    for _ in range(2):
        for checkout in options.checkouts:
            for packages in ("default", "none") if options.packages else ("",):
                found = measure(os.path.abspath(checkout), options.rung, options.checks, packages)
                print(f"{checkout} {packages}: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
