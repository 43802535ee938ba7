"""Bad starts end with one line that says what to do, and a non-zero exit code."""

from __future__ import annotations

import socket
from importlib.resources import files
from pathlib import Path

import pytest

from tests.e2e.conftest import Rgopd

STUDENT = str(files("rgopd.trainer.demo") / "checkpoints" / "student")


def failure(rgopd: Rgopd, *arguments: str) -> str:
    process = rgopd(*arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode not in (0, None), out + err
    assert "Traceback" not in err, err
    return err


def test_a_misspelt_key_names_the_nearest(rgopd: Rgopd) -> None:
    assert "unknown key 'modle'; did you mean 'model'?" in failure(rgopd, "teacher", "--set", "modle=x")
    assert "unknown key 'wrokers'; did you mean 'workers'?" in failure(rgopd, "verifier", "--set", "wrokers=2")


def test_an_unknown_objective_lists_the_known_ones(rgopd: Rgopd) -> None:
    message = failure(
        rgopd, "train", "--set", f"student={STUDENT}", "--set", "dataset={path: x}", "--set", "objective={name: rgopd}"
    )
    assert "unknown objective 'rgopd'; known:" in message
    assert "rg_opd" in message


def test_a_port_in_use(rgopd: Rgopd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = failure(rgopd, "teacher", "--set", f"model={STUDENT}", "--set", f"port={port}")
    assert f"port {port} on 127.0.0.1 is in use" in message


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("sampler", [f"student={STUDENT}"]),
        ("train", [f"student={STUDENT}", "dataset={path: nowhere.jsonl}"]),
    ],
)
def test_no_redis(rgopd: Rgopd, tmp_path: Path, command: str, settings: list[str]) -> None:
    sets = [p for s in [*settings, "redis_url=redis://127.0.0.1:1/0"] for p in ("--set", s)]
    if command == "train":
        sets += ["--set", f"output_dir={tmp_path}", "--set", "fault.wait_for_services_s=2"]
    assert "no Redis answers at redis://127.0.0.1:1/0" in failure(rgopd, command, *sets)


def test_a_model_that_is_not_there(rgopd: Rgopd) -> None:
    assert "/nowhere/model" in failure(rgopd, "teacher", "--set", "model=/nowhere/model")


def test_a_config_that_is_not_there(rgopd: Rgopd) -> None:
    assert "nowhere.yaml cannot be read" in failure(rgopd, "up", "--config", "nowhere.yaml")


def test_doctor_names_each_failure(rgopd: Rgopd, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "common: {redis_url: 'redis://127.0.0.1:1/0'}\n"
        f"train: {{student: {STUDENT}, dataset: {{path: nowhere.jsonl}}}}\n"
        f"teacher: {{model: {STUDENT}}}\n"
        f"sampler: {{student: {STUDENT}}}\n"
    )
    process = rgopd("doctor", "--config", str(config))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    assert "FAIL redis: no Redis answers" in out
    assert "FAIL dataset: dataset nowhere.jsonl does not exist" in out
    assert "ok   loss" in out
    assert "ok   tokenizer" in out
    assert "FAIL mismatch: dataset nowhere.jsonl does not exist" in out, "it samples prompts of the dataset"
    assert "3 checks failed" in out
