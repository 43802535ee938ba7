"""Both doors of a real process under hostile input: never a 500, never a hang, memory back to base.

schemathesis writes the JSON calls from the service's own OpenAPI document; the mutator bends valid protobuf.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import schemathesis
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from rgopd.common import wire
from rgopd.protos import teacher_pb2
from tests.contract.teacher_conformance import rollout, save_tiny_qwen2
from tests.contract.test_teacher_processes import Teacher, as_proto
from tests.waiting import eventually

PROTO = {"Content-Type": wire.PROTOBUF}
EXPECTED = {200, 400, 401, 404, 405, 406, 408, 411, 413, 414, 415, 422, 429, 431, 503}


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, request) -> Iterator[tuple[Teacher, str]]:
    repository = Path(__file__).parents[2]
    model_dir = save_tiny_qwen2(tmp_path_factory.mktemp("model"))
    process = Teacher(
        repository, f"model={model_dir}", "dtype=float32", "device=cpu", "port=0", "max_queue_tokens=20000",
        "body_timeout_s=2", "max_body_mb=16", "threads=1",
    )  # fmt: skip
    yield process, process.url
    process.stop()


@pytest.fixture(scope="module")
def client(teacher) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=teacher[1], timeout=120) as client:
        yield client


def works(client: httpx.Client) -> None:
    body = {"support": "none", "rollouts": [{"id": "r", "prompt_ids": [1], "response_ids": [2]}]}
    assert client.post("/score_topk", json=body).status_code == 200


def valid(rng: np.random.Generator) -> bytes:
    items = [as_proto(rollout(rng, int(c), int(t), k=4)) for c, t in rng.integers(1, 12, (2, 2))]
    request = teacher_pb2.ScoreRequest(
        header=wire.header("run", "r"), k=4, support=teacher_pb2.SUPPORT_STUDENT, temperature=0.7, rollouts=items
    )
    return request.SerializeToString()


def mutate(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(7):
            case 0:
                out = out[:at]
            case 1 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 2:
                out[at:at] = dice.randbytes(dice.randint(1, 8))
            case 3:
                out[at:at] = b"\xff" * dice.randint(1, 10)  # lengths and varints that claim a lot
            case 4:
                del out[at : at + dice.randint(1, 8)]
            case 5:
                out += out[at:]
            case 6 if at < len(out):
                out[at] = dice.choice([0, 1, 127, 128, 255])
    return bytes(out)


def test_mutated_protobuf(client, teacher) -> None:
    dice, rng = random.Random(0), np.random.default_rng(0)
    seeds = [valid(rng) for _ in range(8)]
    for seed in seeds:
        assert client.post("/score_topk", content=seed, headers=PROTO).status_code == 200
    statuses, after = {}, []
    for _ in range(4):
        for _ in range(100):
            status = client.post("/score_topk", content=mutate(dice.choice(seeds), dice), headers=PROTO).status_code
            statuses[status] = statuses.get(status, 0) + 1
        works(client)
        after.append(resident(teacher[0].process.pid))
    assert set(statuses) <= EXPECTED, statuses
    assert {200, 400, 422} <= set(statuses), "the mutator reaches the parser, the checks and the engine"
    # What every thread of the pool keeps once is not what every call leaves behind.
    assert after[-1] < max(after[:2]) + (32 << 20), [size >> 20 for size in after]


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_json_from_the_openapi_document(client, teacher, mode) -> None:
    document = client.get("/openapi.json").json()
    # The mutator above has the other media type, which JSON schemas cannot describe.
    del document["paths"]["/score_topk"]["post"]["requestBody"]["content"][wire.PROTOBUF]
    api = schemathesis.openapi.from_dict(document)
    statuses: set[int] = set()
    for result in api.get_all_operations():
        operation = result.ok()

        @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
        def run(case) -> None:
            response = case.call(base_url=teacher[1], timeout=120)
            statuses.add(response.status_code)
            assert response.status_code in EXPECTED, (case.as_curl_command(), response.text)

        try:
            run()
        except Unsatisfiable:  # a route without parameters has no wrong call
            assert operation.method == "get"
    assert 422 in statuses
    assert 200 in statuses or mode == "negative"
    works(client)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


HUGE = {
    "a million empty rollouts": (b"\x2a\x00" * 1_000_000, PROTO, {413}),
    "a million empty rollouts in JSON": (b'{"rollouts":[' + b"{}," * 999_999 + b"{}]}", {}, {422}),
    "a million empty support rows": (
        b'{"rollouts":[{"id":"r","prompt_ids":[1],"response_ids":[1],"support_ids":['
        + b"[]," * 999_999
        + b"[]]}]}",
        {},
        {422},
    ),
    "deep JSON": (nested(100_000), {}, {400, 422}),
    "a long number": (b'{"k":' + b"9" * 1_000_000 + b"}", {}, {400, 422}),
    "4 MiB of ids": (
        b'{"rollouts":[{"id":"r","response_ids":[1],"prompt_ids":[' + b"1," * (2 << 20) + b"1]}]}", {}, {422},
    ),
    "a claimed 2 GB tensor": (
        teacher_pb2.ScoreRequest(
            support=teacher_pb2.SUPPORT_NONE,
            rollouts=[
                teacher_pb2.ScoreItem(id="r", prompt_ids={"dtype": 1, "shape": [1 << 29], "data": b"abcd"})
            ],
        ).SerializeToString(),
        PROTO,
        {422},
    ),
    "a claimed 2 GB field": (b"\x2a\xff\xff\xff\xff\x07abcd", PROTO, {400}),
    "a zip bomb": (
        zstandard.ZstdCompressor().compress(bytes(1 << 30)), {**PROTO, "Content-Encoding": "zstd"}, {413},
    ),
    "random bytes": (random.Random(1).randbytes(1 << 20), PROTO, {400}),
    "a long id": (
        b'{"support":"none","rollouts":[{"id":"' + b"x" * (1 << 20) + b'","prompt_ids":[1],"response_ids":[1]}]}',
        {},
        {422},
    ),
}  # fmt: skip


def test_huge_claims_cost_little_and_leave_nothing(client, teacher) -> None:
    works(client)
    pid, after = teacher[0].process.pid, []
    for _ in range(10):
        for name, (content, headers, allowed) in HUGE.items():
            headers = {"Content-Type": "application/json", **headers}
            answer = client.post("/score_topk", content=content, headers=headers)
            assert answer.status_code in allowed, (name, answer.status_code, answer.text[:200])
            assert len(answer.content) < 2000, name
        works(client)
        time.sleep(0.5)  # memory goes back a moment after the call
        after.append(resident(pid))
    # The bodies of one round are 15 MB, read they are hundreds: to keep either would be over 100 MB in seven rounds.
    # malloc keeps up to 25 MB for each thread of the pool that has read such a body, whenever its turn comes.
    assert after[-1] < max(after[:3]) + (80 << 20), [size >> 20 for size in after]


def test_a_content_length_of_2_gb_is_refused_unread(teacher) -> None:
    port = int(teacher[1].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST /score_topk HTTP/1.1\r\nHost: t\r\nContent-Length: 2000000000\r\n\r\n")
        assert b" 413 " in connection.recv(4096)


def test_slow_loris_clients_hold_up_nobody(client, teacher) -> None:
    port = int(teacher[1].rsplit(":", 1)[1])
    connections = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(200)]
    try:
        for n, connection in enumerate(connections):
            head = b"POST /score_topk HTTP/1.1\r\nHost: t\r\n"
            connection.sendall(head if n % 2 else head + b"Content-Length: 100\r\n\r\n{")
        works(client)  # the client's patience is the limit; those with half a head never get an answer
        answered = connections[0].recv(4096)  # its body never comes: 408 after body_timeout_s
        assert b" 408 " in answered
    finally:
        for connection in connections:
            connection.close()
    works(client)


def test_clients_that_hang_up_leave_nothing_behind(client, teacher) -> None:
    rng = np.random.default_rng(3)
    body = teacher_pb2.ScoreRequest(
        support=teacher_pb2.SUPPORT_STUDENT, rollouts=[as_proto(rollout(rng, 300, 200)) for _ in range(8)]
    ).SerializeToString()
    for _ in range(20):
        try:
            httpx.post(f"{teacher[1]}/score_topk", content=body, headers=PROTO, timeout=0.03)
        except httpx.TimeoutException:
            pass
    nothing = ("rgopd_teacher_queue_tokens 0.0", "rgopd_teacher_running_tokens 0.0")

    def nothing_is_held() -> bool:
        metrics = client.get("/metrics").text
        return all(line in metrics for line in nothing)

    eventually(nothing_is_held)
    works(client)
