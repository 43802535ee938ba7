"""A model that is still on its way is waited for, and one that does not come is not."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from rgopd.cli import wait_for_models
from rgopd.cli.wait_for_models import lacks, wait


def test_it_waits_for_the_last_byte(student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_for_models, "LOOK_S", 0.02)
    folder, told, looked = tmp_path / "student", list[str](), threading.Event()
    weights = student_folder / "model.safetensors"

    def arrive() -> None:
        assert looked.wait(60)
        shutil.copytree(student_folder, folder, ignore=shutil.ignore_patterns("model.safetensors"))
        assert "holds no weights" in lacks(folder)
        with (folder / weights.name).open("wb") as out:
            out.write(weights.read_bytes()[:5000])
            out.flush()
            assert "is cut off" in lacks(folder)
            time.sleep(0.1)
            out.write(weights.read_bytes()[5000:])

    def say(words: str) -> None:
        told.append(words)
        looked.set()

    sender = threading.Thread(target=arrive)
    sender.start()
    assert wait([str(folder), "Qwen/Qwen2.5-1.5B"], say, quiet_s=120.0) == 0
    assert not sender.is_alive() or sender.join() is None
    assert lacks(folder) == ""
    assert told[0] == f"waiting: {folder} holds no config.json (0.0 GB so far)"


def test_where_nothing_arrives_it_says_whom_to_ask(tmp_path: Path) -> None:
    told: list[str] = []
    assert wait([str(tmp_path)], told.append, quiet_s=0.1) == 1
    assert "does the Job that fetches it run" in told[-1]
