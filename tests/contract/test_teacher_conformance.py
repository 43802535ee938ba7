"""The embedded engine against the conformance cases. tests/vllm holds vLLM to the same ones."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from tests.contract.teacher_conformance import CASES, SHARED, Reference, largest_errors, save_tiny_qwen2

SETTINGS = {
    "float32": ("float32", {}, 15, 1e-4, 1e-4),
    "float32, deterministic": ("float32", {"deterministic": True}, 15, 1e-4, 1e-4),
    "float32, Triton": ("float32", {"head_kernels": "triton"}, 15, 1e-4, 1e-4),
    "bfloat16": ("bfloat16", {}, 8, 3e-2, 3e-2),
}


@pytest.fixture(scope="module", params=SETTINGS)
def engine(request, tmp_path_factory: pytest.TempPathFactory):
    dtype, changes, spread, tolerance, tail_tolerance = SETTINGS[request.param]
    model_dir = save_tiny_qwen2(tmp_path_factory.mktemp("conformance"), spread)
    config = TeacherConfig(
        model=str(model_dir), dtype=dtype, device="cpu", shared_vocab_size=SHARED, max_k=SHARED,
        head_chunk_rows=13, **changes,
    )  # fmt: skip
    return TransformersEngine.load(config), Reference(model_dir), tolerance, tail_tolerance


@pytest.mark.parametrize("name", CASES)
def test_transformers_engine(engine, name) -> None:
    loaded, reference, tolerance, tail_tolerance = engine
    items = CASES[name](np.random.default_rng(zlib.crc32(name.encode())))
    errors = largest_errors(items, loaded.score(items), reference)
    assert errors["sampled"] <= tolerance
    assert errors["topk"] <= tolerance
    assert errors["tail"] <= tail_tolerance
