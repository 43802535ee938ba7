from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import numpy as np

from rgopd.common.run_files.kept_files import pack, step_path, write_step
from rgopd.watch.now import now_of
from rgopd.watch.rollouts import brief, load_step, rollout_of, support_of
from rgopd.watch.run import Run
from rgopd.watch.runs import Runs
from tests.unit.common.test_run_files import kept_rows
from tests.unit.watch.conftest import MakeRun, step_row, write_rows


def opened(folder: Path) -> Run:
    run = Run(folder, folder.name)
    run.refresh()
    return run


def test_only_what_is_new_is_read(make_run: MakeRun) -> None:
    folder = make_run(steps=3)
    run = opened(folder)
    first = run.generation
    path = folder / "metrics.jsonl"
    text = path.read_text()
    with path.open("a") as file:
        file.write('{"event": "step", "step": 3, "lo')
    run.refresh()
    assert run.steps.last == 2, "a torn line waits"
    with path.open("a") as file:
        file.write('ss": 0.5}\n')
    run.refresh()
    assert (run.steps.last, run.steps.value("loss"), run.generation) == (3, 0.5, first)
    assert len(text) < path.stat().st_size


def test_a_run_that_is_cut_back_is_read_anew_and_says_so(make_run: MakeRun) -> None:
    """As `JsonLines` does it on resumption: a shorter copy is renamed over the file."""
    folder = make_run(steps=5)
    run = opened(folder)
    first = run.generation
    partial = folder / "metrics.partial"
    write_rows(partial, [step_row(0), step_row(1)])
    os.replace(partial, folder / "metrics.jsonl")
    run.refresh()
    assert (run.generation, run.steps.last) == (first + 1, 1)
    assert run.cuts == [{"from": 4, "to": 1}]
    write_rows(folder / "metrics.jsonl", [step_row(2, loss=7.0)], "a")
    run.refresh()
    assert run.steps.value("loss") == 7.0
    assert now_of(run)["cuts"] == [{"from": 4, "to": 1}]


def test_a_file_rewritten_in_place_behind_the_same_length_is_noticed(make_run: MakeRun) -> None:
    folder = make_run(steps=4)
    run = opened(folder)
    first = run.generation
    write_rows(folder / "metrics.jsonl", [step_row(i, loss=9.0) for i in range(30)])
    run.refresh()
    assert run.generation == first + 1
    assert set(run.series(["loss"], 0, 100, 100)["step"]["y"]["loss"]) == {9.0}


def test_states(make_run: MakeRun) -> None:
    host = socket.gethostname()
    folder = make_run("a", steps=5)
    assert now_of(opened(folder))["state"]["kind"] == "dead", "five of ten steps, and nobody holds the folder"
    (folder / "trainer.lock").write_text(f"pid {2**22 + 1} on {host}\n")
    state = now_of(opened(folder))["state"]
    assert state["kind"] == "dead"
    assert "rgopd resume" in state["text"]
    (folder / "trainer.lock").write_text("pid 4 on another-machine\n")
    assert now_of(opened(folder))["state"]["kind"] == "running", "its files change"
    for name in ("metrics.jsonl", "timings.jsonl"):
        os.utime(folder / name, (1, 1))
    assert now_of(opened(folder))["state"]["kind"] == "silent"
    done = make_run("b", steps=10)
    (done / "student").mkdir()
    assert now_of(opened(done))["state"]["kind"] == "finished"
    write_rows(done / "metrics.jsonl", [{"event": "early_stop", "step": 10, "metric": "accuracy", "best_step": 4}], "a")
    assert "no better accuracy since step 4" in now_of(opened(done))["state"]["text"]
    new = make_run("c", steps=0)
    assert now_of(opened(new))["state"]["kind"] == "new"


def test_a_trainer_whose_clock_is_behind_is_seen_to_live(make_run: MakeRun) -> None:
    """A folder mounted from a machine whose clock is an hour behind."""
    folder = make_run()
    os.utime(folder / "metrics.jsonl", (1, 1))
    status = {"phase": "training", "pid": 1, "host": "elsewhere", "step": 5, "steps": 10}
    run = opened(folder)
    for second in range(2):
        (folder / "status.json").write_text(json.dumps({**status, "time": time.time() - 3600 + second}))
        kind = now_of(run)["state"]["kind"]
    assert kind == "running", "its status has changed while we looked"
    assert now_of(opened(folder))["state"]["kind"] != "running", "at first sight nothing tells it from a dead one"


def test_a_process_of_another_program_does_not_count_as_the_trainer(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "trainer.lock").write_text(f"pid 1 on {socket.gethostname()}\n")
    assert now_of(opened(folder))["state"]["kind"] == "dead"


def test_warnings_come_with_what_to_do(make_run: MakeRun) -> None:
    folder = make_run(steps=0)
    rows = [step_row(i, truncated_fraction=0.9, response_length_mean=30.0) for i in range(5)]
    write_rows(folder / "metrics.jsonl", rows)
    [warn] = now_of(opened(folder))["warnings"]
    assert warn["kind"] == "truncated"
    assert "max_new_tokens" in warn["do"]


def test_runs_are_found_named_and_ordered(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run("runs/old")
    second = make_run("runs/new")
    twin = make_run("elsewhere/old")
    os.utime(first / "metrics.jsonl", (1000, 1000))
    os.utime(first / "config.yaml", (1000, 1000))
    (tmp_path / "runs" / "not-a-run").mkdir()
    runs = Runs([tmp_path / "runs"])
    assert list(runs.folders()) == ["new", "old"]
    assert runs.named() == []
    assert runs.get("new").folder == second
    both = Runs([twin, tmp_path / "runs"])
    assert list(both.folders()) == ["elsewhere/old", "new", "runs/old"]
    assert both.named() == ["elsewhere/old"]
    make_run("runs/later")
    assert "later" in runs.folders(), "a run that starts appears"


def test_what_an_environment_said_is_marked(make_run: MakeRun) -> None:
    folder = make_run(steps=4)
    rows = kept_rows(3)
    for row in rows:
        if row["kind"] == "rollout":
            row |= {"own": pack(np.array([1, 0, 0, 1, 1]), "u1"), "response_ids": pack(np.arange(5), "i4")}
    write_step(step_path(folder, 3), rows)
    run = opened(folder)
    shown = rollout_of(run, 3, "g0-n000")
    assert shown["told"] == [1, 2]
    assert shown["student"] == [-1.0, None, None, -0.5, -1.5]
    assert support_of(run, 3, "g0-n000", 0, 5)["rows"][1]["top"] == []
    [_, rollout] = next((g, r) for g, r in load_step(folder, 3).rollouts)
    assert {k: brief(rollout)[k] for k in ("length", "turns", "told")} == {"length": 3, "turns": 2, "told": 2}
