"""vLLM's engine is a process of its own: when it dies the teacher says so and ends; its supervisor starts another."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from rgopd.common.http import ServiceState
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.vllm_server import VllmServerEngine
from rgopd.teacher.main import TeacherProcess
from tests.contract.teacher_conformance import SHARED, save_tiny_qwen2
from tests.contract.test_teacher_processes import Teacher
from tests.vllm.test_vllm_server import vllm_server

pytestmark = pytest.mark.vllm

ENGINE = "{max_model_len: 200, enforce_eager: true, block_size: 32}"


def test_a_teacher_whose_engine_died_is_not_ready_and_exits(repository: Path, tmp_path: Path) -> None:
    model = save_tiny_qwen2(tmp_path / "model", 15)
    settings = [f"model={model}", "engine=vllm", "dtype=float32", "port=0", f"vllm={ENGINE}", "max_context=100"]
    teacher = Teacher(repository, *settings)
    try:
        url = teacher.url
        assert httpx.get(f"{url}/readyz").status_code == 200
        below = psutil.Process(teacher.process.pid).children(recursive=True)
        engines = [p for p in below if "EngineCore" in " ".join([p.name(), *p.cmdline()])]
        assert engines, [p.cmdline() for p in below]
        for process in engines:
            os.kill(process.pid, signal.SIGKILL)
        assert teacher.process.wait(60) == 1
        assert any("vLLM's engine died" in line for line in teacher.errors)
    finally:
        teacher.stop()


def test_a_server_elsewhere_makes_the_teacher_unready_until_it_is_back(model_dir: Path) -> None:
    with vllm_server(model_dir, "--max-logprobs", "-1") as url:
        settings = {"engine": "vllm-server", "server_url": url, "server_key": "key", "shared_vocab_size": SHARED}
        engine = VllmServerEngine(TeacherConfig(**settings, max_k=8))
        assert engine.trouble() == ""
    process = TeacherProcess(TeacherConfig(**settings, max_k=8))
    process._watch_in_thread(engine)
    deadline = time.monotonic() + 20
    while not process.state.trouble:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "does not answer" in process.state.trouble
    assert process.state.broken is ServiceState().broken is False
    process._ended.set()
    engine.close()
