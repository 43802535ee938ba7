from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rgopd.common.errors import ConfigError
from rgopd.trainer.records.metrics import JsonLines
from rgopd.trainer.records.monitors import MonitorConfig, Monitors, Tracked, check_backends, open_monitors, scalars

ROW = {
    "event": "eval",
    "step": 3,
    "accuracy": 0.5,
    "pass_at": {"1": 0.25},
    "note": "text",
    "by_domain": {"a": {"n": 2}},
}


def events(folder: Path) -> Iterator[Any]:
    """Events of TensorBoard's files, which are TFRecords: length u64, its crc, the bytes, their crc."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.rglob("events.out.tfevents.*")):
        data = file.read_bytes()
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length


def test_scalars_are_the_numbers_of_a_row_by_path() -> None:
    assert dict(scalars(ROW)) == {"eval/accuracy": 0.5, "eval/pass_at/1": 0.25, "eval/by_domain/a/n": 2.0}


def test_tensorboard_files_hold_every_number_at_its_step(tmp_path: Path) -> None:
    monitors = open_monitors(MonitorConfig(backends=["tensorboard"]), tmp_path, "run", {}, start=0)
    monitors.write(ROW)
    monitors.write({"event": "step", "step": 4, "loss": 1.5})
    monitors.close()
    found = {(v.tag, e.step): v.simple_value for e in events(tmp_path / "tensorboard") for v in e.summary.value}
    assert found == {
        ("eval/accuracy", 3): 0.5,
        ("eval/pass_at/1", 3): 0.25,
        ("eval/by_domain/a/n", 3): 2.0,
        ("step/loss", 4): 1.5,
    }


def test_a_resumed_run_hides_the_steps_it_makes_again(tmp_path: Path) -> None:
    monitors = open_monitors(MonitorConfig(backends=["tensorboard"]), tmp_path, "run", {}, start=7)
    monitors.close()
    assert [e.step for e in events(tmp_path) if e.HasField("session_log")] == [7]


def test_a_missing_library_is_told_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)  # what Python does for a module that is not there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else object())
    with pytest.raises(ConfigError, match=r"trackio needs the package trackio: pip install 'rgopd\[trackio\]'"):
        check_backends(MonitorConfig(backends=["tensorboard", "trackio"]))


class Recorder:
    """The three calls that wandb and trackio have in common."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> Recorder:
        self.calls.append(("init", options))
        return self

    def log(self, values: dict[str, float]) -> None:
        self.calls.append(("log", values))

    def finish(self) -> None:
        self.calls.append(("finish", None))


def test_wandb_and_trackio_get_settings_numbers_and_an_end() -> None:
    recorder = Recorder()
    config = MonitorConfig(project="p", options={"mode": "offline"})
    monitor = Tracked(recorder, config, "run-1", {"seed": 1})
    monitor.write({"event": "step", "step": 2, "loss": 0.5, "skipped": True})
    monitor.close()
    assert recorder.calls == [
        ("init", {"project": "p", "name": "run-1", "config": {"seed": 1}, "mode": "offline"}),
        ("log", {"step/loss": 0.5, "step/skipped": 1.0, "train_step": 2}),
        ("finish", None),
    ]


def test_several_monitors_are_one_and_close_once(tmp_path: Path) -> None:
    recorder = Recorder()
    inner = Monitors([Tracked(recorder, MonitorConfig(), "r", {})])
    lines = JsonLines(tmp_path / "m.jsonl", lambda row: True)
    both = Monitors([lines, inner])
    both.write(ROW)
    both.close()
    inner.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == ROW
    assert [name for name, _ in recorder.calls] == ["init", "log", "finish"]


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        MonitorConfig(backends=["mlflow"])  # type: ignore[list-item]
