"""How long the page takes to its first paint and to its first plots, over 100 and over 10,000 steps, in one Chromium.

    python -m benchmarks.watch.first_paint [ROUNDS]

The two runs are opened in turn, each time in a new context without a cache, so that both meet the same load. Also:
bytes on the wire, memory of the service, processor time to read a run for the first time, the answer without thinning.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, sync_playwright

from rgopd.watch.run import Run
from tests.e2e.conftest import ready_url
from tests.page.conftest import resident_mb
from tests.page.material import write_run

SIZES = (100, 10_000)
NOTE_PLOTS = """
new MutationObserver(() => {
  const plots = document.querySelectorAll('.u-wrap canvas').length;
  if (plots >= 6 && !window.plotted) window.plotted = performance.now();
}).observe(document, { childList: true, subtree: true });
"""


def visit(browser: Browser, url: str) -> dict[str, float]:
    """One visit with an empty cache: milliseconds from the navigation's start, kB received."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(NOTE_PLOTS)
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    received = [0]
    session.on("Network.dataReceived", lambda e: received.__setitem__(0, received[0] + e["encodedDataLength"]))
    page.goto(url)
    page.locator(".u-wrap canvas").nth(5).wait_for()
    page.wait_for_timeout(300)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    plotted = page.evaluate("window.plotted")
    context.close()
    return {"first paint, ms": paint, "six plots, ms": plotted, "received, kB": received[0] / 1e3}


def measure(folder: Path, rounds: int) -> None:
    """Print a table of both sizes."""
    runs = [write_run(folder / f"steps-{size}", size) for size in SIZES]
    for run in runs:
        started = time.process_time()
        Run(run, run.name).refresh()
        print(f"{run.name}: read for the first time in {time.process_time() - started:.2f} s of one core")
    argv = [sys.executable, "-m", "rgopd.cli.main", "watch", *map(str, runs)]
    service = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        url = ready_url(service)
        found: dict[str, list[dict[str, Any]]] = {run.name: [] for run in runs}
        with sync_playwright() as driver:
            path = os.environ.get("CHROMIUM") or shutil.which("chromium")
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
            visit(browser, f"{url}/#curves?run={runs[0].name}")  # the browser's own start
            for _ in range(rounds):
                for run in runs:
                    found[run.name].append(visit(browser, f"{url}/#curves?run={run.name}"))
            browser.close()
        for name, rows in found.items():
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            print(name, {key: round(value, 1) for key, value in middle.items()}, f"median of {rounds}")
        print(f"service: {resident_mb(service.pid):.0f} MiB resident")
        answers(url, runs[-1].name)
    finally:
        service.terminate()
        service.wait()


def answers(url: str, run: str) -> None:
    """One curve's answer, thinned and not, plain and compressed."""
    for points in (600, 4000):
        params: dict[str, Any] = {"run": run, "name": "loss", "points": points}
        plain = len(httpx.get(f"{url}/api/series", params=params, headers={"accept-encoding": "identity"}).content)
        packed = int(httpx.get(f"{url}/api/series", params=params).headers["content-length"])
        print(f"one curve in {points} points: {plain / 1e3:.1f} kB, {packed / 1e3:.1f} kB compressed")
    started = time.perf_counter()
    httpx.get(f"{url}/api/series", params={"run": run, "name": "loss", "low": 9999}).raise_for_status()
    print(f"what a new step costs: an answer in {1e3 * (time.perf_counter() - started):.1f} ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else 9)
