"""The images' HEALTHCHECK. Services: /readyz answers 200. Trainer: it lives, and got on not too long ago."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path


def service() -> str | None:
    """None when ready, else what is wrong."""
    url = f"http://127.0.0.1:{os.environ['RGOPD_PORT']}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=20):
            return None
    except OSError as error:
        return f"{url}: {error}"


SILENT_S = 300
"""The trainer writes status.json every two seconds, whatever it does; before it has one it waits for its ranks."""
STARTING_S = 3600


def age_s(process: int = 1) -> float:
    """How long a process has run. Not by the time of its folder in /proc, which is that of the kernel's last look."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def trainer() -> str | None:
    """status.json says when it last got on, and how long it may not: that grows with the tokens it waits for."""
    file = Path(os.environ.get("RGOPD_OUTPUT_DIR", "/runs/run")) / "status.json"
    now, started = time.time(), time.time() - age_s()
    try:
        status = json.loads(file.read_text())
        written, moved, allowed_s = (float(status[key]) for key in ("time", "moved", "allowed_s"))
    except (OSError, ValueError, KeyError):
        written = moved = allowed_s = 0.0
    if written < started:  # an earlier life's
        return None if now - started < STARTING_S else f"{file}: not written since the start"
    if now - written > SILENT_S:
        return f"{file}: not written for {now - written:.0f} s"
    return None if now - moved < allowed_s else f"{status['phase']}: no progress for {now - moved:.0f} s"


if __name__ == "__main__":
    problem = trainer() if sys.argv[1:] == ["trainer"] else service()
    if problem:
        sys.exit(problem)
