"""The REST door of a teacher with another tokenizer, in both content types; and who it is told to align with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState
from rgopd.protos import teacher_pb2
from rgopd.teacher.alignment import Aligner, make_aligner
from rgopd.teacher.alignment.aligner import student_view
from rgopd.teacher.app import TeacherDoor, make_app
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.items import Scoring
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.trainer.demo.tokenizer import save_tokenizer
from tests.unit.teacher.alignment.kinds import MAKERS, side
from tests.unit.teacher.alignment.test_aligner import ids_of, tiny_engine

CHECKPOINTS = Path(str(files("rgopd.trainer.demo") / "checkpoints"))
MESSAGES = [{"role": "user", "content": "add 1 and 1"}]
ALIGNER = Aligner(side("demo"), side("qwen"))


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(ALIGNER.teacher.size)


@pytest.fixture(scope="module")
def client(engine) -> Iterator[TestClient]:
    state, registry = ServiceState(), CollectorRegistry()
    service = TeacherService(
        engine, TeacherMetrics(registry), max_batch_tokens=512, max_queue_tokens=4096, aligner=ALIGNER
    )
    service.start()
    door = TeacherDoor(TeacherConfig(student_tokenizer="the-student"), state)
    door.open(service)
    state.ready = True
    with TestClient(make_app(door, registry), raise_server_exceptions=False) as client:
        yield client
    service.drain(5)


def rollout():
    response_T = np.array([*ids_of("demo", "def f(a): return a"), ALIGNER.student.end], np.int32)
    support_TK = np.stack([(np.arange(4) + 3 * t) % 100 for t in range(len(response_T))]).astype(np.int32)
    return response_T, support_TK


def post(client: TestClient, request: teacher_pb2.ScoreRequest, *tensors: NDArray[np.int32]) -> httpx.Response:
    """As protobuf; `tensors`: response and support ids of a rollout that is added first."""
    if tensors:
        response_ids, support_ids = map(wire.to_tensor, tensors)
        messages = json.dumps(MESSAGES, ensure_ascii=False)
        request.rollouts.add(id="r", messages_json=messages, response_ids=response_ids, support_ids=support_ids)
    return client.post("/score_topk", content=request.SerializeToString(), headers={"Content-Type": wire.PROTOBUF})


def test_both_content_types_answer_at_the_students_positions(client, engine):
    response_T, support_TK = rollout()
    messages = json.dumps(MESSAGES, ensure_ascii=False)
    item = ALIGNER.item("r", messages, response_T, support_TK, Scoring("student", 4), engine.info)
    expected = student_view(item, engine.score([item])[0])
    assert 0 < len(item.alignment.pairs_M2) < len(response_T) > len(item.response_ids_T)

    body = {"id": "r", "messages": MESSAGES, "response_ids": response_T.tolist(), "support_ids": support_TK.tolist()}
    [score] = client.post("/score_topk", json={"rollouts": [body]}).json()["scores"]
    assert score["aligned"] == expected.aligned_T.tolist()
    assert score["topk_ids"] == expected.topk_ids_TK.tolist()
    assert np.allclose(score["sampled_logprobs"], expected.sampled_logprobs_T, atol=1e-5)

    request = teacher_pb2.ScoreRequest(support=teacher_pb2.SUPPORT_STUDENT)
    answer = post(client, request, response_T, support_TK)
    [message] = teacher_pb2.ScoreResponse.FromString(answer.content).scores
    assert wire.from_tensor(message.aligned).tolist() == expected.aligned_T.tolist()
    assert wire.from_tensor(message.topk_ids).tolist() == expected.topk_ids_TK.tolist()
    assert np.allclose(wire.from_tensor(message.topk_logprobs), expected.topk_logprobs_TK, atol=1e-5)
    assert np.allclose(wire.from_tensor(message.tail_logprob), expected.tail_logprob_T, atol=1e-4)


def test_both_content_types_answer_with_ranks(client, engine):
    response_T, support_TK = rollout()
    messages = json.dumps(MESSAGES, ensure_ascii=False)
    item = ALIGNER.item("r", messages, response_T, support_TK, Scoring("student", 4), engine.info, "hybrid")
    expected = student_view(item, engine.score([item])[0])
    body = {"id": "r", "messages": MESSAGES, "response_ids": response_T.tolist(), "support_ids": support_TK.tolist()}
    [score] = client.post("/score_topk", json={"rollouts": [body], "across": "hybrid"}).json()["scores"]
    assert score["topk_ids"] == expected.topk_ids_TK.tolist()
    assert [-2] * 4 in score["topk_ids"]
    assert np.allclose(score["rest_logprob"], expected.rest_logprob_T, atol=1e-4)

    request = teacher_pb2.ScoreRequest(support=teacher_pb2.SUPPORT_STUDENT, across=teacher_pb2.ACROSS_HYBRID)
    answer = post(client, request, response_T, support_TK)
    [message] = teacher_pb2.ScoreResponse.FromString(answer.content).scores
    assert wire.from_tensor(message.topk_ids).tolist() == expected.topk_ids_TK.tolist()
    assert np.allclose(wire.from_tensor(message.topk_logprobs), expected.topk_logprobs_TK, atol=1e-4)
    assert np.allclose(wire.from_tensor(message.rest_logprob), expected.rest_logprob_T, atol=1e-4)
    request.across = 9
    answer = post(client, request)
    assert answer.status_code == 422
    assert "ACROSS_HYBRID" in answer.json()["detail"]
    assert client.post("/score_topk", json={"rollouts": [body], "across": "sorted"}).status_code == 422


def test_without_messages_the_answer_says_what_to_send(client):
    response_T, _ = rollout()
    body = {"support": "none", "rollouts": [{"id": "r", "prompt_ids": [1], "response_ids": response_T.tolist()}]}
    answer = client.post("/score_topk", json=body)
    assert answer.status_code == 422
    assert "send messages" in answer.json()["detail"]
    aligned = client.get("/info").json()["aligned"]
    assert aligned["student_tokenizer"] == "the-student"
    assert aligned["mapped_ids"] == int((ALIGNER.support_map_V >= 0).sum())


def test_auto_aligns_where_tokenizers_differ_and_nowhere_else(tmp_path: Path):
    student, teacher = str(CHECKPOINTS / "student"), str(CHECKPOINTS / "teacher")
    other = tmp_path / "other"
    save_tokenizer(MAKERS["qwen"](), other)

    def made(**settings: str | int) -> Aligner | None:
        return make_aligner(TeacherConfig(**{"model": teacher, "student_tokenizer": student, **settings}), 600)

    assert made() is None
    assert made(student_tokenizer="", model=str(other)) is None
    assert made(model=str(other), align="off") is None
    assert made(model=str(other)) is not None
    same = made(align="always")
    assert same is not None
    assert (same.support_map_V[6:102] == np.arange(6, 102)).all()
    with pytest.raises(ConfigError, match="shared_vocab_size"):
        made(model=str(other), shared_vocab_size=100)
    with pytest.raises(ConfigError, match="student_tokenizer"):
        made(align="always", student_tokenizer="")
