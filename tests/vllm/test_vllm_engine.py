"""The vllm engine on real vLLM, against a float32 transformers forward."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from rgopd.common.errors import ConfigError
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import vllm as vllm_engine
from rgopd.teacher.engines.vllm import VllmEngine
from tests.contract.teacher_conformance import CASES, SHARED, Reference, largest_errors, rollout, save_tiny_qwen2

pytestmark = pytest.mark.vllm


def config(model_dir, **changes) -> TeacherConfig:
    values = {
        "model": str(model_dir), "engine": "vllm", "dtype": "float32", "shared_vocab_size": SHARED, "max_k": SHARED,
        "vllm": {"max_model_len": 1000, "enforce_eager": True, "max_num_batched_tokens": 256, "block_size": 32},
        **changes,
    }  # fmt: skip
    return TeacherConfig(**values)


SETTINGS = {"float32": (15, 1e-4, 1e-4), "bfloat16": (8, 3e-2, 3e-2)}


@pytest.fixture(scope="module", params=SETTINGS)
def loaded(request, tmp_path_factory) -> Iterator[tuple[VllmEngine, Reference, float, float]]:
    spread, tolerance, tail_tolerance = SETTINGS[request.param]
    model_dir = save_tiny_qwen2(tmp_path_factory.mktemp("vllm-model"), spread)
    engine = VllmEngine(config(model_dir, dtype=request.param))
    yield engine, Reference(model_dir), tolerance, tail_tolerance
    engine.close()


@pytest.fixture
def engine(loaded) -> VllmEngine:
    return loaded[0]


@pytest.mark.parametrize("name", CASES)
def test_conformance(loaded, name) -> None:
    engine, reference, tolerance, tail_tolerance = loaded
    items = CASES[name](np.random.default_rng(zlib.crc32(name.encode())))
    errors = largest_errors(items, engine.score(items), reference)
    print(f"\n{engine.info.dtype} {engine.info.scoring} {name}: {errors}")
    coldest = min(item.scoring.temperature for item in items)  # what the dtype rounds off the logits is divided by it
    assert errors["sampled"] <= tolerance / min(coldest, 1)
    assert errors["topk"] <= tolerance / min(coldest, 1)
    assert errors["tail"] <= tail_tolerance / min(coldest, 1)


def test_info_names_the_method(engine) -> None:
    info = engine.info
    assert info.scoring in ("token-ids", "full-vocab")
    assert (info.engine, info.vocab_size, info.max_context) == ("vllm", SHARED, 999)


def test_temperatures_may_come_from_two_threads_at_once(loaded) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine, reference, tolerance, _ = loaded
    rng = np.random.default_rng(0)
    batches = [[rollout(rng, 9, 12, "teacher", 5, t) for _ in range(3)] for t in (1.0, 0.5, 1.0, 2.0, 0.5, 1.0)]
    with ThreadPoolExecutor(2) as threads:
        for items, scores in zip(batches, threads.map(engine.score, batches), strict=True):
            assert largest_errors(items, scores, reference)["topk"] <= 2 * tolerance  # T = 0.5 doubles it


def test_a_group_reads_its_prompt_from_the_prefix_cache(engine) -> None:
    rng = np.random.default_rng(1)
    prompt = rng.integers(0, SHARED, 160, dtype=np.int32)
    engine.score([rollout(rng, prompt, 3, "none")])
    item = rollout(rng, prompt, 20, "none")
    output = engine._loop.run(engine._generate(item, False))
    assert output.num_cached_tokens >= 144


def test_rollouts_beyond_what_one_request_holds_are_scored_position_by_position(loaded, monkeypatch) -> None:
    engine, reference, tolerance, tail_tolerance = loaded
    assert engine.info.scoring == "full-vocab", "the CPU has no V2 model runner"
    items = [rollout(np.random.default_rng(2), 9, 12), rollout(np.random.default_rng(3), 1, 4)]
    asked = []
    monkeypatch.setattr(engine, "_row_by_row", lambda item, own=engine._row_by_row: asked.append(item.id) or own(item))
    monkeypatch.setattr(vllm_engine, "FULL_VOCAB_CELLS", 1000)
    errors = largest_errors(items, engine.score(items), reference)
    assert asked == [item.id for item in items]
    assert max(errors["sampled"], errors["topk"]) <= tolerance
    assert errors["tail"] <= tail_tolerance


def test_settings_that_vllm_refuses_are_a_config_error(model_dir) -> None:
    with pytest.raises(ConfigError, match=r"vLLM cannot hold .*no_such_argument"):
        VllmEngine(config(model_dir, vllm={"no_such_argument": 1}))
