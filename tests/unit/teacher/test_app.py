"""Both content types of POST /score_topk through the app, with the real engine behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.http import ServiceState
from rgopd.protos import common_pb2, teacher_pb2
from rgopd.teacher.app import TeacherDoor, make_app
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.schemas import EXAMPLES
from tests.unit.teacher.conftest import SHARED, make_config, random_item

JSON_TYPE = {"Content-Type": "application/json"}
PROTO = {"Content-Type": wire.PROTOBUF}


@pytest.fixture(scope="module")
def client(model_dir, engine) -> Iterator[TestClient]:
    config = make_config(model_dir, max_rollouts=8, max_body_mb=1, max_k=64, max_queue_tokens=4096)
    state, registry = ServiceState(), CollectorRegistry()
    service = TeacherService(
        engine, TeacherMetrics(registry), max_batch_tokens=512, max_queue_tokens=config.max_queue_tokens
    )
    service.start()
    door = TeacherDoor(config, state)
    door.open(service)
    state.ready = True
    with TestClient(make_app(door, registry), raise_server_exceptions=False) as client:
        yield client
    service.drain(5)


def as_json(item, **changes):
    body = {"id": item.id, "prompt_ids": item.prompt_ids_C.tolist(), "response_ids": item.response_ids_T.tolist()}
    if item.support_ids_TK is not None:
        body["support_ids"] = item.support_ids_TK.tolist()
    return {**body, **changes}


def as_proto(item) -> teacher_pb2.ScoreItem:
    message = teacher_pb2.ScoreItem(
        id=item.id, prompt_ids=wire.to_tensor(item.prompt_ids_C), response_ids=wire.to_tensor(item.response_ids_T)
    )
    if item.support_ids_TK is not None:
        message.support_ids.CopyFrom(wire.to_tensor(item.support_ids_TK))
    return message


def proto_request(items, **fields) -> teacher_pb2.ScoreRequest:
    fields = {"support": teacher_pb2.SUPPORT_STUDENT, **fields}
    return teacher_pb2.ScoreRequest(rollouts=[as_proto(i) for i in items], **fields)


def test_json_and_protobuf_give_the_engines_numbers(client, engine) -> None:
    rng = np.random.default_rng(0)
    items = [random_item(rng, c, 6, "student", 4, 0.7, f"r{c}") for c in (1, 9, 30)]
    expected = engine.score(items)
    answer = client.post(
        "/score_topk",
        json={"k": 4, "support": "student", "temperature": 0.7, "rollouts": [as_json(i) for i in items]},
    ).json()
    assert (answer["model"], answer["revision"]) == (engine.info.model, engine.info.revision)
    assert answer["scoring"] == "gathered"
    raw = client.post("/score_topk", content=proto_request(items, temperature=0.7).SerializeToString(), headers=PROTO)
    assert raw.headers["content-type"] == wire.PROTOBUF
    message = wire.parse(teacher_pb2.ScoreResponse, raw.content)
    for item, score, got, scored in zip(items, expected, answer["scores"], message.scores, strict=True):
        assert got["id"] == scored.id == item.id
        assert got["topk_ids"] == item.support_ids_TK.tolist()
        assert not scored.HasField("topk_ids"), "ids are not echoed to a caller who sent them"
        np.testing.assert_allclose(got["topk_logprobs"], score.topk_logprobs_TK, atol=1e-5)
        np.testing.assert_allclose(got["sampled_logprobs"], score.sampled_logprobs_T, atol=1e-5)
        np.testing.assert_allclose(got["tail_logprob"], score.tail_logprob_T, atol=1e-5)
        np.testing.assert_allclose(wire.from_tensor(scored.topk_logprobs), score.topk_logprobs_TK, atol=1e-5)
        np.testing.assert_allclose(wire.from_tensor(scored.sampled_logprobs), score.sampled_logprobs_T, atol=1e-5)
        np.testing.assert_allclose(wire.from_tensor(scored.tail_logprob), score.tail_logprob_T, atol=1e-5)


def test_float16_on_request_narrows_the_topk_alone(client, engine) -> None:
    item = random_item(np.random.default_rng(1), 5, 6, "teacher", 4)
    request = proto_request([item], support=teacher_pb2.SUPPORT_TEACHER, k=4, topk_dtype=common_pb2.DTYPE_FLOAT16)
    raw = client.post("/score_topk", content=request.SerializeToString(), headers=PROTO)
    (score,) = wire.parse(teacher_pb2.ScoreResponse, raw.content).scores
    (expected,) = engine.score([item])
    np.testing.assert_array_equal(wire.from_tensor(score.topk_ids, dtype="int32", ndim=2), expected.topk_ids_TK)
    narrow = wire.from_tensor(score.topk_logprobs, dtype="float16", ndim=2)
    np.testing.assert_allclose(narrow, expected.topk_logprobs_TK, rtol=1e-3)
    np.testing.assert_allclose(
        wire.from_tensor(score.sampled_logprobs, dtype="float32"), expected.sampled_logprobs_T, atol=1e-5
    )


def test_a_question_in_json_may_be_answered_in_protobuf_and_back(client) -> None:
    item = random_item(np.random.default_rng(2), 5, 6, "none")
    body = {"support": "none", "rollouts": [as_json(item)]}
    raw = client.post("/score_topk", json=body, headers={"Accept": wire.PROTOBUF})
    (score,) = wire.parse(teacher_pb2.ScoreResponse, raw.content).scores
    assert not score.HasField("topk_logprobs")
    assert not score.HasField("tail_logprob")
    message = proto_request([item], support=teacher_pb2.SUPPORT_NONE).SerializeToString()
    answer = client.post("/score_topk", content=message, headers={**PROTO, "Accept": "application/json"})
    np.testing.assert_allclose(
        answer.json()["scores"][0]["sampled_logprobs"], wire.from_tensor(score.sampled_logprobs), atol=1e-5
    )


def test_header_comes_back(client) -> None:
    item = random_item(np.random.default_rng(3), 5, 6, "none")
    request = proto_request([item], support=teacher_pb2.SUPPORT_NONE, header=wire.header("run", trace_id="00-ab-cd-01"))
    raw = client.post("/score_topk", content=request.SerializeToString(), headers=PROTO)
    assert wire.parse(teacher_pb2.ScoreResponse, raw.content).header == request.header


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_openapi_examples_run_as_they_stand(client, name) -> None:
    documented = client.get("/openapi.json").json()["paths"]["/score_topk"]["post"]["requestBody"]["content"]
    body = documented["application/json"]["examples"][name]["value"]
    answer = client.post("/score_topk", content=json.dumps(body), headers=JSON_TYPE)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["scores"]) == len(body["rollouts"])


GOOD = {"id": "r-7", "prompt_ids": [1, 2], "response_ids": [3, 4], "support_ids": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"rollouts": [GOOD | {"response_ids": [3, SHARED]}]}, 422, "'r-7': response_ids: id 300 is outside"),
        ({"rollouts": [GOOD | {"prompt_ids": [-1, 2]}]}, 422, "'r-7': prompt_ids: id -1 is outside"),
        ({"rollouts": [GOOD | {"prompt_ids": [2**31]}]}, 422, "prompt_ids"),
        ({"rollouts": [GOOD | {"prompt_ids": [1.5]}]}, 422, "prompt_ids"),
        ({"rollouts": [GOOD | {"prompt_ids": [1] * 1023}]}, 422, "'r-7': prompt + response is 1025 ids"),
        ({"rollouts": [GOOD | {"response_ids": []}]}, 422, "'r-7': response_ids: must be a list of at least one"),
        ({"rollouts": [GOOD | {"prompt_ids": []}]}, 422, "'r-7': prompt_ids: must be a list of at least one"),
        ({"rollouts": [GOOD | {"support_ids": [[1, 2]]}]}, 422, "one row for each of the 2 response ids"),
        ({"rollouts": [GOOD | {"support_ids": [[1, 2], [3]]}]}, 422, "rows hold 1 to 2 ids; pad"),
        ({"rollouts": [GOOD | {"support_ids": [[1, 1], [3, 4]]}]}, 422, "row 0 names an id twice"),
        ({"rollouts": [GOOD | {"support_ids": [[1, -2], [3, 4]]}]}, 422, "id -2 is outside"),
        ({"rollouts": [GOOD | {"support_ids": [[], []]}]}, 422, "support_ids: missing"),
        ({"rollouts": [{k: v for k, v in GOOD.items() if k != "support_ids"}]}, 422, "support_ids: missing"),
        ({"rollouts": [GOOD, GOOD]}, 422, "two rollouts of the call have this id"),
        ({"rollouts": [GOOD | {"id": ""}]}, 422, "rollout id"),
        ({"rollouts": [GOOD | {"surprise": 1}]}, 422, "surprise"),
        ({"rollouts": []}, 422, "send at least one"),
        ({"rollouts": [GOOD | {"id": str(i)} for i in range(9)]}, 413, "9 in one call, the limit is 8"),
        ({"k": 3}, 422, "rows hold 2 ids but k is 3"),
        ({"k": 257}, 422, "k: must be at most"),
        ({"k": -1}, 422, "k: must be at most"),
        ({"support": "teacher", "k": 0}, 422, "give 1 or more"),
        ({"support": "teacher", "k": 2}, 422, 'support_ids are only for support "student"'),
        ({"support": "both"}, 422, "support"),
        ({"temperature": -0.5}, 422, "temperature"),
        ({"temperature": 0}, 422, "must be a positive number, got 0"),
        ({"temperature": "NaN"}, 422, "temperature"),
        ({"model": "another"}, 422, "this service holds"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(client, change, status, says) -> None:
    body = {"k": 2, "support": "student", "rollouts": [GOOD], **change}
    answer = client.post("/score_topk", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("text", ["", "{", "[1,2", "\x00", "nonsense", '"\\ud800"'])
def test_malformed_json_is_400(client, text) -> None:
    answer = client.post("/score_topk", content=text.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_a_bare_nan_is_refused(client) -> None:
    text = '{"support":"none","rollouts":[{"id":"r-7","prompt_ids":[NaN],"response_ids":[1]}]}'
    answer = client.post("/score_topk", content=text)
    assert (answer.status_code, "prompt_ids" in answer.text) == (422, True)


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x2a\xff\xff\xff\xff\x07abc"])
def test_malformed_protobuf_is_400(client, body) -> None:
    assert client.post("/score_topk", content=body, headers=PROTO).status_code == 400


def test_an_unset_temperature_is_1_at_both_doors(client) -> None:
    items = [random_item(np.random.default_rng(4), 2, 2, "none")]
    asked = [proto_request(items, support=teacher_pb2.SUPPORT_NONE, **given) for given in ({}, {"temperature": 1.0})]
    raw = [client.post("/score_topk", content=message.SerializeToString(), headers=PROTO) for message in asked]
    assert [answer.status_code for answer in raw] == [200, 200]
    assert raw[0].content == raw[1].content
    body = {"support": "none", "rollouts": [as_json(item) for item in items]}
    answers = [client.post("/score_topk", json={**body, **given}).json() for given in ({}, {"temperature": 1})]
    assert answers[0] == answers[1]


def test_nan_temperature_in_protobuf_is_refused(client) -> None:
    request = proto_request([random_item(np.random.default_rng(4), 2, 2)], temperature=float("nan"))
    answer = client.post("/score_topk", content=request.SerializeToString(), headers=PROTO)
    assert answer.status_code == 422
    assert "temperature" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT64, shape=[1], data=b"\0" * 8), "dtype must be int32"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[2, 1], data=b"\0" * 8), "must have 1 axes"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[2**29], data=b"\0" * 8), "needs 2147483648 bytes"),
        (common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=[-1], data=b""), "negative axis"),
        (common_pb2.Tensor(), "missing"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(client, tensor, says) -> None:
    request = proto_request([random_item(np.random.default_rng(5), 2, 2)])
    request.rollouts[0].response_ids.CopyFrom(tensor)
    answer = client.post("/score_topk", content=request.SerializeToString(), headers=PROTO)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert "response_ids" in answer.json()["detail"]


def test_a_newer_schema_and_an_unset_support_are_refused(client) -> None:
    item = random_item(np.random.default_rng(6), 2, 2)
    newer = proto_request([item], header=common_pb2.Header(schema_version=99))
    answer = client.post("/score_topk", content=newer.SerializeToString(), headers=PROTO)
    assert (answer.status_code, "schema version 99" in answer.text) == (422, True)
    answer = client.post("/score_topk", content=proto_request([item], support=0).SerializeToString(), headers=PROTO)
    assert (answer.status_code, "SUPPORT_STUDENT" in answer.text) == (422, True)


def test_other_media_types_are_415(client) -> None:
    answer = client.post("/score_topk", content=b"<a/>", headers={"Content-Type": "text/xml"})
    assert answer.status_code == 415


def test_a_body_over_the_limit_is_413(client) -> None:
    assert client.post("/score_topk", content=b"0" * (2 << 20)).status_code == 413

    def chunks():
        for _ in range(40):
            yield b"0" * (64 << 10)

    assert client.post("/score_topk", content=chunks()).status_code == 413


def test_more_tokens_than_the_queue_ever_holds_is_413(client) -> None:
    rollouts = [{"id": str(i), "prompt_ids": [1] * 1000, "response_ids": [1]} for i in range(8)]
    answer = client.post("/score_topk", json={"support": "none", "rollouts": rollouts})
    assert (answer.status_code, "send fewer rollouts" in answer.text) == (413, True)


def test_info_and_metrics(client) -> None:
    info = client.get("/info").json()
    assert (info["vocab_size"], info["limits"]["max_rollouts"]) == (SHARED, 8)
    assert info["precision"].startswith("float32 throughout")
    text = client.get("/metrics").text
    assert "rgopd_teacher_tokens_total" in text
    assert "rgopd_teacher_wait_seconds_bucket" in text
