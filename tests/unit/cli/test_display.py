"""Words while a command works: on terminals of any width, in logs, and where the reader is gone."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rgopd.cli.display import EvaluationSource, Progress, RunSource, Snapshot, Stage
from rgopd.cli.display.looks import line, table
from rgopd.cli.display.progress import Screen
from rgopd.cli.display.snapshot import Rates, duration
from rgopd.common.run_files import EventLog, StatusFile
from rgopd.evaluate.progress import Progress as Counting
from tests.waiting import eventually

BUSY = Snapshot(
    "collecting",
    step=3,
    steps=40,
    stages=[Stage("sampling", 37, 64), Stage("verifying", 20, 64), Stage("scoring", 0, 64)],
    seconds=2.5,
    left_s=3725.0,
    figures=[("loss", "0.1234"), ("kept", "0.52")],
    processes={"verifier": "died"},
    warnings=["20% of the responses are cut"],
)


def console(**options: Any) -> Console:
    return Console(file=io.StringIO(), **options)


def text_of(some: Console) -> str:
    file = some.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("width", [12, 24, 40, 59, 60, 80, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    screen = console(width=width, force_terminal=True, color_system=None)
    screen.print(table(BUSY, {"sampling": 3.0}, 61.0, width))
    lines = text_of(screen).splitlines()
    assert max(map(len, lines)) <= width
    if width >= 24:
        assert any("37/64" in row for row in lines)
    assert any("20%" in row for row in lines)


def test_a_line_says_where_it_is_and_what_is_left() -> None:
    said = line(BUSY, {}, 61.0)
    assert said.startswith("step 4/40  collecting  1:01 so far  2.5 s/step  1:02:05 left")
    assert "sampling 37/64  verifying 20/64  scoring 0/64" in said
    assert "loss 0.1234" in said


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.9, "59 s"), (187, "3:07"), (7390, "2:03:10"), (273_600, "3 d 4 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_rates_start_anew_with_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rgopd.cli.display.snapshot.time.monotonic", lambda: now[0])
    rates = Rates()
    assert rates.update([Stage("sampling", 0, 64)]) == {"sampling": 0.0}
    now[0] += 2
    assert rates.update([Stage("sampling", 10, 64)]) == {"sampling": 5.0}
    now[0] += 1
    assert rates.update([Stage("sampling", 3, 64)]) == {"sampling": 0.0}
    for _ in range(100):
        now[0] += 1
        rates.update([Stage("sampling", 64, 64)])
    assert rates.update([Stage("sampling", 64, 64)])["sampling"] == pytest.approx(0.0)


def test_lines_where_there_is_no_terminal() -> None:
    screen = console(width=80)
    started = time.monotonic()
    with Progress(lambda: BUSY, every_s=0.5, console=screen) as progress:
        progress.say("[bold]as it is[/bold]")
        eventually(lambda: text_of(screen).count("step 4/40") >= 3)
        seconds = time.monotonic() - started
    lines = text_of(screen).splitlines()
    assert lines[0].startswith("step 4/40")  # at once
    assert lines[1] == "[bold]as it is[/bold]"
    assert 3 <= sum("step 4/40" in row for row in lines) <= seconds / 0.5 + 2, "at once, every 0.5 s, at the end"
    assert "\x1b" not in text_of(screen)


def test_a_live_display_gives_the_terminal_back() -> None:
    screen = console(width=80, force_terminal=True, legacy_windows=False)

    def interrupted() -> None:
        with Progress(lambda: BUSY, mode="live", console=screen) as progress:
            progress.say("above")
            eventually(lambda: "scoring" in text_of(screen))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    out = text_of(screen)
    assert out.index("\x1b[?25l") < out.rindex("\x1b[?25h")  # the cursor is shown again
    assert "above" in out
    assert "scoring" in out


@pytest.mark.parametrize(
    ("environment", "terminal", "mode"),
    [({}, True, "live"), ({}, False, "lines"), ({"TERM": "dumb"}, True, "lines"), ({"CI": "true"}, True, "lines")],
)
def test_what_auto_means(environment: dict[str, str], terminal: bool, mode: str, monkeypatch: Any) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Progress(lambda: BUSY, console=console(force_terminal=terminal)).mode == mode


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = console(width=80, force_terminal=True)
    screen.print(table(BUSY, {}, 1.0, 80))
    assert "\x1b[3" not in text_of(screen)


def test_a_reader_that_is_gone_ends_the_display_alone() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        screen = Screen(file=pipe, width=80)
        with Progress(lambda: BUSY, every_s=0.1, console=screen) as progress:
            os.close(read)
            eventually(lambda: progress._gone)
            progress.say("into the void")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, pipe.fileno())  # what is still buffered
        os.close(nowhere)
    assert progress._gone


def test_off_says_only_what_is_said() -> None:
    screen = console(width=80)
    with Progress(lambda: BUSY, mode="off", console=screen) as progress:
        progress.say("x")
    assert text_of(screen) == "x\n"


def test_a_source_from_a_run_folder(tmp_path: Path) -> None:
    EventLog(tmp_path, "trainer").add("evaluated", "of an earlier life", step=0)
    StatusFile(tmp_path).write({"started": time.time() - 100, "phase": "paused", "stages": {}})
    source = RunSource(tmp_path, lambda: {"teacher": "loading"})
    assert source() == Snapshot("starting", processes={"teacher": "loading"}, news=[])
    status = {
        "started": time.time(),
        "phase": "training",
        "since": time.time(),
        "step": 2,
        "steps": 9,
        "stages": {"training": {"done": 3, "of": 8}},
        "seconds": 4.0,
        "eta_s": 28.0,
        "tokens_per_s": 1234.5,
        "gpu_bytes": 3 << 30,
        "metrics": {"loss": 0.5, "kept_fraction": 0.25},
        "warnings": [{"text": "entropy fell"}],
    }
    StatusFile(tmp_path).write(status)
    EventLog(tmp_path, "trainer").add("warning", "entropy fell", step=2, do="lower optim.lr")
    EventLog(tmp_path, "trainer").add("phase", "loading took 3 s")
    shown = source()
    assert (shown.phase, shown.step, shown.steps) == ("training", 2, 9)
    assert shown.stages == [Stage("training", 3, 8)]
    assert shown.left_s is not None
    assert 25 < shown.left_s <= 28
    assert ("GPU", "3.0 GiB") in shown.figures
    assert shown.warnings == ["entropy fell"]
    (news,) = shown.news
    assert news.endswith("step 2: entropy fell. What to do: lower optim.lr")
    assert source().news == []
    StatusFile(tmp_path).write({**status, "time": time.time() - 60})
    assert "no word from the trainer for 60 s" in source().phase


def test_a_source_that_is_slow_does_not_hold_what_is_said() -> None:
    asked = threading.Event()

    def slow() -> Snapshot:
        asked.set()
        return BUSY

    screen = console(width=80)
    said: Callable[[str], None]
    with Progress(slow, console=screen) as progress:
        said = progress.say
        assert asked.wait(60)
        said("x")
    said("after")
    assert text_of(screen).rstrip().endswith("after")


def test_an_evaluation_loads_and_then_counts() -> None:
    source = EvaluationSource()
    assert source() == Snapshot("loading model and data")
    said: list[str] = []
    counting = Counting(10.0, said.append)
    counting.next_line = 0.0
    source.follow(counting)
    counting.begin("GSM8K at 1024 tokens", 40, 10.0)
    for _ in range(10):
        counting.add_partial("generate_until", None, None)
    shown = source()
    assert (shown.phase, shown.stages) == ("GSM8K at 1024 tokens", [Stage("answers", 10, 40)])
    assert shown.left_s is not None
    assert said == []  # the display tells, not both
