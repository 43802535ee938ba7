from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from rgopd.cli.page import Page


def page_of(folder: Path, said: list[str], **settings: Any) -> Page:
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text("{}")
    config = folder / "up.yaml"
    config.write_text(yaml.safe_dump({"common": {"run_id": "r"}, "watch": settings}))
    return Page(folder, config, settings, said.append)


def tend_until(page: Page, condition: Callable[[], object], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        page.tend()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_says_where_it_is_comes_back_and_keeps_its_port(tmp_path: Path) -> None:
    said: list[str] = []
    page = page_of(tmp_path / "run", said)
    page.start()
    page.wait(300)
    assert [line.split()[0] for line in said] == ["page"]
    url = said[0].split()[1]
    assert httpx.get(f"{url}/api/runs").json()["first"] == ["run"]
    assert page.child.process is not None
    first = page.child.process.pid
    os.kill(first, signal.SIGKILL)
    page.child.process.wait()
    tend_until(page, lambda: page.child.process and page.child.process.pid != first and page.child.url())
    assert page.child.url() == url
    page.stop()
    assert page_of(tmp_path / "run", said).child.argv[-1] == f"port={urlsplit(url).port}", "the next life's, too"


def test_a_page_that_cannot_be_costs_the_run_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    page = page_of(tmp_path / "run", said, host="203.0.113.7", allow_root=True)
    page.restarts.limit = 1
    page.start()
    tend_until(page, lambda: page.given_up)
    [text] = said
    assert "the run goes on" in text
    assert "cannot listen on 203.0.113.7" in text
    page.tend()
    assert len(said) == 1, "told once"
    page.stop()
