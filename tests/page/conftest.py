"""A real headless Chromium over a real `rgopd watch`. What the browser complains of fails the test it happened in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.conftest import Rgopd, ready_url, rgopd  # noqa: F401  (a fixture)

PATIENCE_MS = 120_000
"""For anything to appear: a browser beside a training run on two cores, and CI shares them."""
expect.set_options(timeout=PATIENCE_MS)

Open = Callable[..., Page]
Serve = Callable[..., str]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no Chromium: apt-get install chromium, or name one in the variable CHROMIUM"
    with sync_playwright() as driver:
        # Chromium's own sandbox needs user namespaces, which root and many containers have not.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`rgopd watch PLACES`; returns the URL that it printed."""
    started: list[subprocess.Popen[str]] = []

    def start(*places: Path, **settings: Any) -> str:
        argv = [sys.executable, "-m", "rgopd.cli.main", "watch", *map(str, places), "--set", "poll_s=0.3"]
        for key, value in settings.items():
            argv += ["--set", f"{key}={value}"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        url = ready_url(process)
        assert url
        serve_pids[url] = process.pid
        return url

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 0, "it leaves at once, though pages are open"


serve_pids: dict[str, int] = {}


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a URL; errors of scripts, refused requests and breaches of the page's policy are failures."""
    complaints: list[str] = []
    contexts = []

    def start(url: str, width: int = 1280, height: int = 900, scheme: str = "light", touch: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, accept_downloads=True
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(url)
        return page

    start.complaints = complaints  # type: ignore[attr-defined]
    yield start
    for context in contexts:
        context.close()
    assert complaints == []


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
