"""The HTTP door: POST /verify."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry

from rgopd.common.errors import UnsupportedMediaType
from rgopd.common.http import ServiceState, create_app
from rgopd.common.wire import PROTOBUF
from rgopd.verifier import schemas
from rgopd.verifier.engine import VerifierEngine

JSON = "application/json"
_ON_THE_LOOP_BYTES = 256 << 10

EXAMPLE: dict[str, Any] = {
    "items": [
        {"id": "m1", "kind": "math", "response": "so it is $\\boxed{0.5}$", "reference": "\\frac{1}{2}"},
        {
            "id": "c1",
            "kind": "code",
            "response": "```python\ndef f(x):\n    return x + 1\n```",
            "tests": ["assert f(1) == 2"],
        },
        {
            "id": "c2",
            "kind": "code",
            "response": "print(int(input()) * 2)",
            "tests": [{"stdin": "21\n", "stdout": "42\n"}],
        },
        {
            "id": "c3",
            "kind": "code",
            "response": "def add(a, b): return a + b",
            "entry_point": "add",
            "tests": [{"args": [1, 2], "expected": 3}],
        },
    ]
}

_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": schemas.VerifyRequest.model_json_schema(), "example": EXAMPLE},
            PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "x-curl": f"curl -sS http://127.0.0.1:8200/verify -H 'Content-Type: {JSON}' -d '{json.dumps(EXAMPLE)}'",
}


def build_app(
    state: ServiceState,
    engine: Callable[[], VerifierEngine],
    metrics: CollectorRegistry,
    *,
    token: str = "",
    max_body_bytes: int = 64 << 20,
    max_items: int = 1024,
) -> FastAPI:
    """The verifier's app. `engine` is asked for the engine once `state` is ready."""
    app = create_app("rgopd verifier", state, metrics, token=token, max_body_bytes=max_body_bytes)

    @app.post("/verify", response_model=schemas.VerifyResponse, openapi_extra=_OPENAPI, tags=["verify"])
    async def verify(request: Request) -> Response:
        """Judge items; verdicts come in the order of the items. JSON or protobuf by Content-Type and Accept."""
        state.require_ready()
        content_type = _media_type(request.headers.get("content-type", JSON))
        if content_type not in (JSON, PROTOBUF):
            raise UnsupportedMediaType(f"Content-Type {content_type!r}: send {JSON} or {PROTOBUF}")
        body = await request.body()
        parse = schemas.items_from_json if content_type == JSON else schemas.items_from_protobuf
        if len(body) <= _ON_THE_LOOP_BYTES:
            futures = engine().submit_many(parse(body, max_items))
        else:  # reading a megabyte of test code takes seconds, in which others are to be answered
            futures = await asyncio.to_thread(lambda: engine().submit_many(parse(body, max_items)))
        verdicts = list(await asyncio.gather(*(asyncio.wrap_future(f) for f in futures)))
        accepted = request.headers.get("accept", "")
        if PROTOBUF in accepted or (content_type == PROTOBUF and JSON not in accepted):
            return Response(schemas.to_protobuf(verdicts), media_type=PROTOBUF)
        return Response(schemas.to_json(verdicts), media_type=JSON)

    return app


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()
