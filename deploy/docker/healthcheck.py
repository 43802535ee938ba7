"""The images' HEALTHCHECK. Services: /readyz answers 200. Trainer: the run's folder changed not too long ago."""

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


def trainer() -> str | None:
    """A step must end within fault.step_timeout_s, and each step writes to timings.jsonl."""
    folder = Path(os.environ.get("RGOPD_OUTPUT_DIR", "/runs/run"))
    silence = float(os.environ.get("RGOPD_FAULT__STEP_TIMEOUT_S", "3600")) + 300
    started = Path("/proc/1").stat().st_ctime
    newest = max([started, *(f.stat().st_mtime for f in folder.glob("*.jsonl"))])
    quiet = time.time() - newest
    return None if quiet < silence else f"{folder}: nothing was written for {quiet:.0f} s"


if __name__ == "__main__":
    problem = trainer() if sys.argv[1:] == ["trainer"] else service()
    if problem:
        sys.exit(problem)
