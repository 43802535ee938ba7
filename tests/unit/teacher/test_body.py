"""Bodies: zstd both ways, bombs, the bound on all bodies together, slow clients, clients that leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import zstandard
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.errors import TooLarge
from rgopd.common.http import ServiceState
from rgopd.protos import teacher_pb2
from rgopd.teacher.app import TeacherDoor, make_app
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.codec import check_rollout_count
from rgopd.teacher.metrics import TeacherMetrics
from tests.unit.teacher.conftest import make_config, random_item
from tests.unit.teacher.test_app import as_json, proto_request

PROTO = {"Content-Type": wire.PROTOBUF}


@pytest.fixture
def app(model_dir, engine):
    config = make_config(model_dir, max_body_mb=1, max_held_mb=2, max_json_mb=1, body_timeout_s=1.5)
    state, registry = ServiceState(), CollectorRegistry()
    service = TeacherService(engine, TeacherMetrics(registry), max_batch_tokens=512, max_queue_tokens=1 << 16)
    service.start()
    door = TeacherDoor(config, state)
    door.open(service)
    state.ready = True
    app = make_app(door, registry)
    app.state.door, app.state.service = door, service
    yield app
    service.drain(5)


def post(app, content, headers, count: int = 1) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            calls = [client.post("/score_topk", content=content(), headers=headers) for _ in range(count)]
            return await asyncio.gather(*calls)

    return asyncio.run(run())


def test_zstd_both_ways(app, engine) -> None:
    items = [random_item(np.random.default_rng(0), 5, 60, "student", 40)]
    raw = proto_request(items).SerializeToString()
    packed = zstandard.ZstdCompressor().compress(raw)
    headers = {**PROTO, "Content-Encoding": "zstd", "Accept-Encoding": "zstd"}
    (answer,) = post(app, lambda: packed, headers)
    assert answer.headers["content-encoding"] == "zstd"
    (score,) = wire.parse(teacher_pb2.ScoreResponse, answer.content).scores
    np.testing.assert_allclose(
        wire.from_tensor(score.topk_logprobs), engine.score(items)[0].topk_logprobs_TK, atol=1e-5
    )
    (plain,) = post(app, lambda: raw, {**PROTO, "Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert app.state.door._gate.held == 0


def bomb(size: int) -> bytes:
    """A frame that hides its size, so that only reading it tells."""
    packer = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    return packer.compress(bytes(size)) + packer.flush()


@pytest.mark.parametrize("content", [bomb(2 << 20), zstandard.ZstdCompressor().compress(bytes(2 << 20)), bomb(1 << 28)])
def test_a_zip_bomb_is_413(app, content) -> None:
    assert len(content) < 1 << 16
    (answer,) = post(app, lambda: content, {**PROTO, "Content-Encoding": "zstd"})
    assert answer.status_code == 413
    assert app.state.door._gate.held == 0


@pytest.mark.parametrize(
    ("encoding", "status"), [("zstd", 400), ("gzip", 415), ("br", 415), ("zstd, zstd", 415), ("identity", 400)]
)
def test_bodies_that_are_not_what_they_say(app, encoding, status) -> None:
    (answer,) = post(app, lambda: b"nonsense", {**PROTO, "Content-Encoding": encoding})
    assert answer.status_code == status


def test_a_slow_body_is_408(app) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"{"
            await asyncio.sleep(0.02)

    (answer,) = post(app, drip, {})
    assert (answer.status_code, "longer than 1.5 s" in answer.text) == (408, True)
    assert app.state.door._gate.held == 0


def test_bodies_held_at_once_are_bounded(app) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield bytes(100_000)
            await asyncio.sleep(0.01)

    statuses = [answer.status_code for answer in post(app, slow, PROTO, count=6)]
    assert statuses.count(429) >= 3
    assert set(statuses) <= {400, 429}
    assert app.state.door._gate.held == 0


def test_a_million_empty_rollouts_are_counted_not_parsed() -> None:
    with pytest.raises(TooLarge):
        check_rollout_count(b"\x2a\x00" * 1_000_000, 4096)
    with pytest.raises(TooLarge):
        check_rollout_count(b"\x08\x00" * 1_000_000, 4096)
    check_rollout_count(b"\x2a\x00" * 4096, 4096)
    check_rollout_count(b"\x2a\xff\xff\xff\xff\x0f", 4096)
    check_rollout_count(b"\xff" * 100, 4096)
    request = proto_request([random_item(np.random.default_rng(0), 2, 2)], k=2, temperature=0.5, model="m")
    check_rollout_count(request.SerializeToString(), 1)


def test_a_tensor_of_a_million_axes_is_refused(app) -> None:
    request = proto_request([random_item(np.random.default_rng(0), 2, 2)])
    request.rollouts[0].prompt_ids.shape.extend([1] * 900_000)
    (answer,) = post(app, request.SerializeToString, PROTO)
    assert (answer.status_code, "got 900001" in answer.text) == (422, True)


def test_a_client_that_leaves_takes_its_rollouts_along(app, engine) -> None:
    service, gate = app.state.service, threading.Event()
    service.engine = type("Gated", (), {"info": engine.info, "close": lambda self: None})()
    service.engine.score = lambda items: gate.wait(120) and engine.score(items)
    rng = np.random.default_rng(0)
    rollouts = [as_json(random_item(rng, 100, 200, "none", name=str(n))) for n in range(40)]

    async def run() -> int:
        sent = {
            "type": "http.request",
            "body": httpx.Request("POST", "/", json={"support": "none", "rollouts": rollouts}).content,
        }
        messages = [sent]

        async def receive():
            if messages:
                return messages.pop()
            while not service._queue.waiting:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            assert message.get("status", 499) == 499

        scope = {
            "type": "http", "method": "POST", "path": "/score_topk", "raw_path": b"/score_topk", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
            "asgi": {"version": "3.0"}, "client": ("127.0.0.1", 1), "server": ("t", 80), "root_path": "",
        }  # fmt: skip
        await app(scope, receive, send)
        return service._queue.waiting

    assert asyncio.run(run()) == 0
    gate.set()
    assert service.drain(120)


def test_a_call_cut_off_by_shutdown_is_503(app, engine) -> None:
    service, gate = app.state.service, threading.Event()
    service.engine = type("Gated", (), {"info": engine.info, "close": lambda self: None})()
    service.engine.score = lambda items: gate.wait(120) and engine.score(items)
    rng = np.random.default_rng(0)
    items = [random_item(rng, 100, 200, "none", name=str(n)) for n in range(10)]
    content = proto_request(items, support=teacher_pb2.SUPPORT_NONE).SerializeToString()

    def close_when_queued() -> None:
        while not service._queue.waiting:
            time.sleep(0.01)
        threading.Timer(0.2, gate.set).start()
        service.close()

    closer = threading.Thread(target=close_when_queued)
    closer.start()
    (answer,) = post(app, lambda: content, PROTO)
    closer.join()
    assert (answer.status_code, "another replica" in answer.text) == (503, True)


def test_spans_carry_the_rollouts_id_under_the_callers_trace(app) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app.state.service._tracer._tracer = provider.get_tracer("test")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    items = [random_item(np.random.default_rng(n), 5, 6, "none", name=f"r{n}") for n in range(2)]
    content = proto_request(items, support=teacher_pb2.SUPPORT_NONE).SerializeToString()
    (answer,) = post(app, lambda: content, {**PROTO, "traceparent": parent})
    assert answer.status_code == 200
    app.state.service.drain(5)
    spans = exporter.get_finished_spans()
    assert sorted((s.name, s.attributes["rgopd.rollout_id"]) for s in spans) == [
        ("teacher.score", "r0"), ("teacher.score", "r1"), ("teacher.wait", "r0"), ("teacher.wait", "r1"),
    ]  # fmt: skip
    for span in spans:
        assert trace.format_trace_id(span.context.trace_id) == "0af7651916cd43dd8448eb211c80319c"
        assert trace.format_span_id(span.parent.span_id) == "b7ad6b7169203331"
        assert span.start_time <= span.end_time
