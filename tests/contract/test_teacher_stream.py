"""The stream door on a real Valkey: ScoreJob in, TeacherScore blob and StageDone out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from redis import Redis
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.common import wire
from rgopd.common.deliveries import Delivery
from rgopd.common.streams import RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, Streams
from rgopd.common.worker import DEADLINES_S
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import ScoreItem, Scoring
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.worker import ScoreWorker
from tests.waiting import eventually, expire


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256,
    )  # fmt: skip
    path: Path = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(path)
    return TransformersEngine.load(TeacherConfig(model=str(path), dtype="float32", device="cpu"))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def start(engine, streams: Streams, registry) -> Iterator[Callable[..., ScoreWorker]]:
    service = TeacherService(engine, TeacherMetrics(registry), max_batch_tokens=512, max_queue_tokens=1 << 16)
    service.start()
    workers = []

    def start(name: str = "teacher-1", teacher: str = "", registry: CollectorRegistry | None = None) -> ScoreWorker:
        registry = registry or CollectorRegistry()
        worker = ScoreWorker(service, streams, teacher=teacher, consumer=name, registry=registry)
        workers.append(worker)
        worker.start()
        return worker

    streams.ensure(SCORE)
    streams.ensure(RESULTS)
    yield start
    for worker in workers:
        worker.stop(5)
    service.drain(5)


def put_rollout(streams: Streams, rollout_id: str, seed: int, response: int = 6) -> ScoreItem:
    rng = np.random.default_rng(seed)
    prompt, sampled = rng.integers(0, 64, 4, dtype=np.int32), rng.integers(0, 64, response, dtype=np.int32)
    support = np.stack([rng.permutation(64)[:3] for _ in range(response)]).astype(np.int32)
    rollout = rollout_pb2.Rollout(
        header=wire.header(streams.run_id, rollout_id),
        group_id="g",
        prompt_ids=wire.to_tensor(prompt),
        response_ids=wire.to_tensor(sampled),
        support_ids=wire.to_tensor(support),
    )
    streams.blobs.put(ROLLOUT, rollout_id, rollout.SerializeToString())
    return ScoreItem(rollout_id, prompt, sampled, Scoring("student", 3, 0.8), support)


def put_job(streams: Streams, rollout_id: str, stream: str = SCORE, **fields) -> None:
    fields = {"k": 3, "support": teacher_pb2.SUPPORT_STUDENT, "temperature": 0.8, **fields}
    job = teacher_pb2.ScoreJob(header=wire.header(streams.run_id, rollout_id), group_id="g", **fields)
    streams.add(stream, job.SerializeToString())


def results(streams: Streams, count: int, timeout_s: float = 120) -> dict[str, rollout_pb2.StageDone]:
    found: dict[str, rollout_pb2.StageDone] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        for delivery in streams.read(RESULTS, "test", count=100, block_ms=50):
            done = wire.parse(rollout_pb2.StageDone, delivery.payload)
            found[done.header.rollout_id] = done
    return found


def test_scores_are_stored_then_announced(streams, start, engine) -> None:
    items = [put_rollout(streams, f"r{n}", n, response=1 + n) for n in range(12)]
    for item in items:
        put_job(streams, item.id)
    start()
    found = results(streams, 12)
    assert set(found) == {item.id for item in items}
    for item, expected in zip(items, engine.score(items), strict=True):
        assert (found[item.id].stage, found[item.id].group_id) == (SCORE, "g")
        assert not found[item.id].HasField("failure")
        score = wire.parse(teacher_pb2.TeacherScore, streams.blobs.get(TEACHER_SCORE, item.id))
        np.testing.assert_allclose(wire.from_tensor(score.topk_logprobs), expected.topk_logprobs_TK, atol=1e-5)
        np.testing.assert_allclose(wire.from_tensor(score.sampled_logprobs), expected.sampled_logprobs_T, atol=1e-5)
        np.testing.assert_allclose(wire.from_tensor(score.tail_logprob), expected.tail_logprob_T, atol=1e-5)
    eventually(lambda: streams.depth(SCORE) == {"backlog": 0, "leased": 0})


def test_support_none_ignores_the_rollouts_support(streams, start, engine) -> None:
    item = put_rollout(streams, "r", 0)
    put_job(streams, "r", support=teacher_pb2.SUPPORT_NONE)
    start()
    assert not results(streams, 1)["r"].HasField("failure")
    score = wire.parse(teacher_pb2.TeacherScore, streams.blobs.get(TEACHER_SCORE, item.id))
    assert not score.HasField("topk_logprobs")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"k": 5}, "rows hold 3 ids but k is 5"),
        ({"k": 9999}, "k: must be at most 64"),
        ({"support": 0}, "support: set"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_a_job_that_cannot_be_done_is_a_dead_letter_that_tells_the_join(streams, start, fields, says) -> None:
    put_rollout(streams, "r", 0)
    put_job(streams, "r", **fields)
    start()
    failure = results(streams, 1)["r"].failure
    assert (failure.stage, failure.kind, failure.attempts) == (SCORE, "invalid_input", 1)
    assert says in failure.reason
    (dead,) = streams.dead_letters()
    assert says in dead.reason


def test_a_job_without_its_rollout_says_so(streams, start) -> None:
    put_job(streams, "lost")
    start()
    failure = results(streams, 1)["lost"].failure
    assert failure.kind == "rollout_gone"
    assert "not in the blob store" in failure.reason


def test_a_named_teacher_reads_its_own_stream(streams, start) -> None:
    put_rollout(streams, "r", 0)
    put_job(streams, "r", stream="score_math", teacher="math")
    registry = CollectorRegistry()
    worker = start(teacher="math", registry=registry)
    job = Delivery("1-0", "score_math", teacher_pb2.ScoreJob().SerializeToString(), 1)
    assert worker._worker.workers[0]._limit(job) == DEADLINES_S[SCORE], (
        "a stage's deadline, whatever the stream is called"
    )
    assert not results(streams, 1)["r"].HasField("failure")
    assert streams.depth(SCORE)["backlog"] == 0
    eventually(lambda: registry.get_sample_value("rgopd_score_seconds_count"))
    assert registry.get_sample_value("rgopd_score_messages_total", {"outcome": "done"}) == 1


@pytest.mark.parametrize(("meant", "serves", "stream"), [("math", "", "score"), ("", "math", "score_math")])
def test_a_job_for_another_teacher_is_refused(streams, start, meant, serves, stream) -> None:
    put_rollout(streams, "r", 0)
    put_job(streams, "r", stream=stream, teacher=meant)
    start(teacher=serves)
    failure = results(streams, 1)["r"].failure
    assert (failure.stage, failure.kind, failure.attempts) == (SCORE, "invalid_input", 1)
    assert f"is for teacher {meant!r}, and this is {serves!r}" in failure.reason
    assert streams.blobs.get(TEACHER_SCORE, "r") is None


def test_bytes_that_are_no_job_stop_nobody(streams, start) -> None:
    streams.add(SCORE, b"\xff\xff\xff\xff")
    put_rollout(streams, "r", 0)
    put_job(streams, "r")
    start()
    assert not results(streams, 1)["r"].HasField("failure")
    assert [letter.payload for letter in streams.dead_letters()] == [b"\xff\xff\xff\xff"]


def test_a_replayed_message_costs_no_forward(streams, start, registry) -> None:
    item = put_rollout(streams, "r", 0)
    put_job(streams, "r")
    start()
    results(streams, 1)
    first = streams.blobs.get(TEACHER_SCORE, "r")
    tokens = registry.get_sample_value("rgopd_teacher_tokens_total")
    put_job(streams, "r")
    assert set(results(streams, 1)) == {"r"}, "whoever waits is told again"
    assert registry.get_sample_value("rgopd_teacher_tokens_total") == tokens == item.tokens
    assert streams.blobs.get(TEACHER_SCORE, "r") == first


def test_the_message_of_a_dead_worker_is_taken_over(streams, redis: Redis, start) -> None:
    put_rollout(streams, "r", 0)
    put_job(streams, "r")
    assert streams.read(SCORE, "killed", count=1), "leased by a worker that never comes back"
    expire(streams, SCORE)
    start("survivor")
    assert not results(streams, 1)["r"].HasField("failure")
