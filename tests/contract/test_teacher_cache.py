"""The score cache on a real Valkey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from rgopd.teacher.batching import TeacherService
from rgopd.teacher.cache import ScoreCache
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import settings_digest
from rgopd.teacher.engines.self_teacher import SelfTeacherEngine
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import Scoring
from rgopd.teacher.metrics import TeacherMetrics
from tests.contract.teacher_conformance import SHARED, rollout, save_tiny_qwen2
from tests.waiting import eventually


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    model_dir = save_tiny_qwen2(tmp_path_factory.mktemp("model"))
    return TransformersEngine.load(TeacherConfig(model=str(model_dir), device="cpu", shared_vocab_size=SHARED))


@pytest.fixture
def clean(redis: Redis) -> Redis:
    redis.delete(*(f"rgopd:{{scores}}:{name}" for name in ("values", "lru", "bytes")))
    return redis


def items(count: int = 4, support="student"):
    rng = np.random.default_rng(0)
    return [rollout(rng, 5 + n, 6, support) for n in range(count)]


@pytest.mark.parametrize("support", ["student", "teacher", "none"])
def test_a_second_call_costs_no_forward(clean, engine, support, monkeypatch) -> None:
    registry = CollectorRegistry()
    service = TeacherService(
        engine, TeacherMetrics(registry), max_batch_tokens=512, max_queue_tokens=4096, cache=ScoreCache(clean, 1 << 20)
    )
    service.start()
    batch = items(support=support)
    first = [future.result(120) for future in service.submit(batch)]
    service.drain(5)  # the cache is filled after the answers
    service._draining = False
    eventually(lambda: clean.hlen("rgopd:{scores}:values") == 4)
    again = [future.result(0) for future in service.submit([replace(item, id="other") for item in batch])]
    for one, two in zip(first, again, strict=True):
        for name in ("sampled_logprobs_T", "topk_ids_TK", "topk_logprobs_TK", "tail_logprob_T"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert registry.get_sample_value("rgopd_teacher_cache_total", {"result": "hit"}) == 4
    assert registry.get_sample_value("rgopd_teacher_tokens_total") == sum(item.tokens for item in batch)
    monkeypatch.setattr(engine, "close", lambda: None)  # the module's other tests use it on
    service.close()  # its thread may still be storing, and the connection is closed after this test


def test_everything_the_numbers_depend_on_is_in_the_key(clean, engine) -> None:
    cache, info = ScoreCache(clean, 1 << 20), engine.info
    (item,) = items(1)
    cache.put_many([item], engine.score([item]), info)
    assert cache.get_many([item], info)[0] is not None
    moved = replace(item, prompt_ids_C=item.input_ids[:4], response_ids_T=item.input_ids[4:])
    other_support = item.support_ids_TK.copy()
    other_support[0, 0] = (set(range(SHARED)) - set(other_support[0])).pop()
    for different in (
        replace(item, scoring=replace(item.scoring, temperature=0.5)),
        replace(item, support_ids_TK=other_support),
        replace(item, scoring=Scoring("none", 0), support_ids_TK=None),
        replace(item, scoring=Scoring("teacher", 8), support_ids_TK=None),
        moved,
    ):
        assert cache.get_many([different], info) == [None]
    for other in (
        {"revision": "new"},
        {"vocab_size": SHARED - 1},
        {"dtype": "float64"},
        {"device": "cuda"},
        {"settings": "other"},
    ):
        assert cache.get_many([item], replace(info, **other)) == [None]


@pytest.mark.parametrize(
    "changes",
    [
        {"deterministic": True},
        {"quantization": "fp8"},
        {"vllm": {"kv_cache_dtype": "fp8"}},
        {"tensor_parallel_size": 2},
        {"server_url": "http://gpu2:8000"},
    ],
)
def test_settings_that_change_the_numbers_are_in_the_key(clean, engine, changes) -> None:
    plain, other = (settings_digest(TeacherConfig(model="m", **c)) for c in ({}, changes))
    assert plain == settings_digest(TeacherConfig(model="elsewhere/m", cache_mb=1))
    assert plain != other
    cache, (item,) = ScoreCache(clean, 1 << 20), items(1)
    cache.put_many([item], engine.score([item]), replace(engine.info, settings=plain))
    assert cache.get_many([item], replace(engine.info, settings=other)) == [None]


def test_only_a_deterministic_teacher_is_tied_to_the_order_of_sums() -> None:
    def digest(**changes: Any) -> str:
        return settings_digest(TeacherConfig(model="m", **changes))

    assert digest(threads=1) == digest(threads=2)
    assert digest(threads=1, deterministic=True) != digest(threads=2, deterministic=True)


def test_a_loaded_engine_tells_its_settings(engine) -> None:
    model = engine.info.model
    config = TeacherConfig(model=model, device="cpu", shared_vocab_size=SHARED, deterministic=True)
    info = TransformersEngine.load(config).info
    assert info.settings != engine.info.settings
    assert replace(info, settings=engine.info.settings) == engine.info


@pytest.mark.parametrize("source", ["ema", "trust-region"])
def test_self_teachers_use_no_cache(clean, engine, source) -> None:
    config = TeacherConfig(model=engine.info.model, device="cpu", shared_vocab_size=SHARED, source=source)
    service = TeacherService(
        SelfTeacherEngine(config, lambda: None),
        TeacherMetrics(CollectorRegistry()),
        max_batch_tokens=512,
        max_queue_tokens=4096,
        cache=ScoreCache(clean, 1 << 20),
    )
    service.start()
    for future in service.submit(items()):
        future.result(120)
    service.drain(5)
    service.close()
    assert not clean.exists("rgopd:{scores}:values")


def test_the_least_recently_used_leave_at_the_bound(clean, engine) -> None:
    batch = items(40)
    scores = engine.score(batch)
    size = 6 * 8 * 4 + 2 * 6 * 4
    cache = ScoreCache(clean, 10 * (size + 60))
    for item, score in zip(batch[:8], scores, strict=False):
        cache.put_many([item], [score], engine.info)
    cache.get_many([batch[0]], engine.info)
    for item, score in zip(batch[8:16], scores[8:], strict=False):
        cache.put_many([item], [score], engine.info)
    kept = [found is not None for found in cache.get_many(batch, engine.info)]
    assert kept[0], "read again, so not the least recently used"
    assert not kept[1]
    assert kept[15]
    stored = sum(len(value) for value in clean.hvals("rgopd:{scores}:values"))
    assert stored == int(clean.get("rgopd:{scores}:bytes")) <= 10 * (size + 60)
    assert clean.zcard("rgopd:{scores}:lru") == clean.hlen("rgopd:{scores}:values")
    assert clean.ttl("rgopd:{scores}:values") > 0


def test_an_entry_that_cannot_be_read_is_a_miss(clean, engine) -> None:
    cache = ScoreCache(clean, 1 << 20)
    (item,) = items(1)
    cache.put_many([item], engine.score([item]), engine.info)
    (field,) = clean.hkeys("rgopd:{scores}:values")
    clean.hset("rgopd:{scores}:values", field, b"\xff\xff")
    assert cache.get_many([item], engine.info) == [None]


def test_a_redis_that_is_gone_is_a_cache_that_misses(engine, caplog) -> None:
    gone = ScoreCache(Redis.from_url("redis://127.0.0.1:1/0"), 1 << 20)
    batch = items(2)
    assert gone.get_many(batch, engine.info) == [None, None]
    gone.put_many(batch, engine.score(batch), engine.info)
    assert "score cache" in caplog.text
