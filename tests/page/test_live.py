"""The page while things happen: a real demo from step 0 to its end, killed and resumed on the way; and much of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from playwright.sync_api import Page, expect

from rgopd.common.run_files import kept_steps, read_step
from rgopd.common.run_files.kept_files import kept_files
from rgopd.trainer.records.metrics import read_json_lines
from tests.e2e.conftest import Rgopd, eventually, processes_naming
from tests.page.conftest import Open, Serve, resident_mb, serve_pids, tab
from tests.page.material import append_step, write_run

STEPS = 6
SMALL = {
    "train.steps": STEPS,
    "train.sampling.prompts_per_step": 8,
    "train.sampling.n": 4,
    "train.sampling.groups_per_request": 4,
    "train.eval.n": 30,
    "train.checkpoint.every": 2,
    "train.optim.warmup_steps": 1,
    "up.samplers": 1,
}
MINUTES = 600_000


def steps_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return sum(row["event"] == "step" for row in read_json_lines(path)) if path.exists() else 0


def printed_url(process: subprocess.Popen[str]) -> str:
    """What `rgopd demo` says about its page."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("page "):
            return line.split()[1]
    raise AssertionError("no page was printed")


def test_a_demo_live_killed_resumed_and_finished(rgopd: Rgopd, serve: Serve, open_page: Open, tmp_path: Path) -> None:
    """One page stays open over all of it, and is never loaded again."""
    runs = tmp_path / "runs"
    runs.mkdir()
    page = open_page(serve(runs))
    expect(page.get_by_text("No run yet below")).to_be_visible()
    folder = runs / "live"
    overrides = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    demo = rgopd("demo", "--output-dir", str(folder), *overrides)
    own = printed_url(demo)
    expect(page.get_by_role("heading", name="live")).to_be_visible(timeout=MINUTES)
    expect(page.locator(".badge")).to_have_text(re.compile("running|not started"))
    expect(page.get_by_text(re.compile(r"^step [1-9] of 6"))).to_be_visible(timeout=MINUTES)
    tab(page, "Curves")
    expect(page.locator('[data-chart="loss"] canvas')).to_be_visible()
    first = steps_shown(page)
    eventually(lambda: steps_of(folder) >= 3 and stopped_between_writes(folder))
    expect(page.locator('[data-chart="loss"] .plot')).to_have_attribute("aria-label", re.compile(r"steps 0 to [2-9]\."))
    assert steps_shown(page) > first
    theirs = open_page(own)
    expect(theirs.get_by_role("heading", name="live")).to_be_visible()
    tab(theirs, "Queues and faults")
    expect(theirs.get_by_role("cell", name="generate").first).to_be_visible()
    tab(theirs, "Rollouts")
    theirs.locator("details.rollout summary").first.click()
    theirs.locator('.tok[data-i="1"]').first.hover()
    expect(theirs.locator(".token-card thead")).to_contain_text("teacher")
    theirs.close()
    kill_all(demo, folder)
    tab(page, "Now")
    expect(page.locator(".badge")).to_have_text("died", timeout=MINUTES)
    expect(page.get_by_text("rgopd resume").first).to_be_visible()
    assert steps_of(folder) < STEPS, "killed too late to show anything"
    resumed = rgopd("resume", str(folder))
    assert printed_url(resumed) == own, "a page that is still open comes back by itself"
    expect(page.locator(".badge")).to_have_text("running", timeout=MINUTES)
    expect(page.locator(".badge")).to_have_text("finished", timeout=MINUTES)
    expect(page.get_by_text("step 6 of 6")).to_be_visible()
    expect(page.locator("#panel-now").get_by_text(re.compile("^Resumed: steps after"))).to_be_visible()
    tab(page, "Curves")
    expect(page.locator('[data-chart="loss"] .plot')).to_have_attribute("aria-label", re.compile(r"steps 0 to 5\."))
    assert resumed.wait(600) == 0
    complaints = open_page.complaints  # type: ignore[attr-defined]
    complaints[:] = [text for text in complaints if "ERR_CONNECTION_REFUSED" not in text]  # the page that was killed


def kill_all(demo: subprocess.Popen[str], folder: Path) -> None:
    """As a machine that goes: every process of the run at once, and none may say good-bye."""
    os.killpg(demo.pid, signal.SIGKILL)
    each(folder, signal.SIGKILL)
    demo.wait()
    eventually(lambda: processes_naming(str(folder)) == [])


def stopped_between_writes(folder: Path) -> bool:
    """The trainer stands still, so that it is killed in the middle however slow the browser, and what it keeps of the
    newest step's rollouts is written."""
    each(folder, signal.SIGSTOP, "rgopd.cli.main train")
    steps = kept_steps(folder)
    ranks = {rank for _, step, rank in kept_files(folder) if step == steps[-1]} if steps else set()
    if ranks == {0, 1} and all(group.rollouts for group in read_step(folder, steps[-1]).groups):
        return True
    each(folder, signal.SIGCONT, "rgopd.cli.main train")
    return False


def each(folder: Path, send: signal.Signals, command: str = "") -> None:
    """Signal every process of a run whose command line names this."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in line and command in line:
                    os.kill(int(entry.name), send)
            except OSError:  # gone meanwhile
                continue


def steps_shown(page: Page) -> int:
    label = page.locator('[data-chart="loss"] .plot').get_attribute("aria-label") or ""
    found = re.search(r"steps \d+ to (\d+)\.", label)
    return int(found.group(1)) if found else -1


def test_ten_thousand_steps_and_memory_that_stays(tmp_path: Path, serve: Serve, open_page: Open) -> None:
    """How long it takes is in benchmarks/watch; here, that neither process grows while the run does."""
    folder = write_run(tmp_path / "big", 10_000, total=20_000)
    url = serve(folder)
    page = open_page(f"{url}/#curves")
    canvas = page.locator('[data-chart="loss"] canvas')
    canvas.wait_for()
    for step in range(10_000, 10_040):
        append_step(folder, step, 20_000)
    expect(page.locator('[data-chart="loss"] .plot')).to_have_attribute("aria-label", re.compile(r"to 10,039\."))
    settle(page)
    service, heap = [resident_mb(serve_pids[url])], [heap_mb(page)]
    for start in (10_040, 10_140, 10_240):
        for step in range(start, start + 100):
            append_step(folder, step, 20_000)
            if step % 10 == 0:
                time.sleep(0.06)
        last = re.compile(f"to {start + 99:,}\\.")
        expect(page.locator('[data-chart="loss"] .plot')).to_have_attribute("aria-label", last)
        for _ in range(2):
            page.reload()
            canvas.wait_for()
        settle(page)
        service.append(resident_mb(serve_pids[url]))
        heap.append(heap_mb(page))
    # What a thread or an allocator keeps once is not what every step and every page leaves behind.
    assert service[-1] < max(service[:2]) + 12, f"MiB of the service: {service}"
    assert heap[-1] < max(heap[:2]) + 12, f"MiB of the page: {heap}"


def settle(page: Page) -> None:
    page.wait_for_timeout(800)


def heap_mb(page: Page) -> float:
    """JavaScript heap after a collection, MiB."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return float(used) / 2**20
