"""Real vLLM in an environment of its own (`make test-vllm`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.contract.teacher_conformance import save_tiny_qwen2

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen2(tmp_path_factory.mktemp("vllm-model"))
