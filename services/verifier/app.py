"""The HTTP door: POST /verify and POST /step."""

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
from rgopd.verifier.environments import schemas as turns
from rgopd.verifier.environments.service import Environments

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


STEP_EXAMPLE: dict[str, Any] = {
    "episodes": [
        {
            "id": "e1",
            "environment": {"name": "feedback"},
            "actions": ["def add(a, b): return a - b"],
            "check": {"kind": "code", "entry_point": "add", "tests": [{"args": [1, 2], "expected": 3}]},
        }
    ]
}

_STEP_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": turns.StepRequest.model_json_schema(), "example": STEP_EXAMPLE},
            PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "x-curl": f"curl -sS http://127.0.0.1:8200/step -H 'Content-Type: {JSON}' -d '{json.dumps(STEP_EXAMPLE)}'",
}


def build_app(
    state: ServiceState,
    engine: Callable[[], VerifierEngine],
    metrics: CollectorRegistry,
    *,
    environments: Callable[[], Environments] | None = None,
    token: str = "",
    max_body_bytes: int = 64 << 20,
    max_items: int = 1024,
) -> FastAPI:
    """The verifier's app. `engine` and `environments` are asked for once `state` is ready."""
    app = create_app("rgopd verifier", state, metrics, token=token, max_body_bytes=max_body_bytes)

    @app.post("/verify", response_model=schemas.VerifyResponse, openapi_extra=_OPENAPI, tags=["verify"])
    async def verify(request: Request) -> Response:
        """Judge items; verdicts come in the order of the items. JSON or protobuf by Content-Type and Accept."""
        state.require_ready()
        content_type = _content_type(request)
        body = await request.body()
        parse = schemas.items_from_json if content_type == JSON else schemas.items_from_protobuf
        if len(body) <= _ON_THE_LOOP_BYTES:
            futures = engine().submit_many(parse(body, max_items))
        else:  # reading a megabyte of test code takes seconds, in which others are to be answered
            futures = await asyncio.to_thread(lambda: engine().submit_many(parse(body, max_items)))
        verdicts = list(await asyncio.gather(*(asyncio.wrap_future(f) for f in futures)))
        if _wants_protobuf(request, content_type):
            return Response(schemas.to_protobuf(verdicts), media_type=PROTOBUF)
        return Response(schemas.to_json(verdicts), media_type=JSON)

    if environments is not None:
        _add_step(app, state, environments, max_items)
    return app


def _add_step(app: FastAPI, state: ServiceState, environments: Callable[[], Environments], max_items: int) -> None:
    @app.post("/step", response_model=turns.StepResponse, openapi_extra=_STEP_OPENAPI, tags=["step"])
    async def step(request: Request) -> Response:
        """Answer conversations, each from all that was said in it; observations come in the order of the episodes."""
        state.require_ready()
        content_type = _content_type(request)
        parse = turns.episodes_from_json if content_type == JSON else turns.episodes_from_protobuf
        futures = environments().submit(parse(await request.body(), max_items))
        observations = list(await asyncio.gather(*(asyncio.wrap_future(f) for f in futures)))
        if _wants_protobuf(request, content_type):
            return Response(turns.to_protobuf(observations), media_type=PROTOBUF)
        return Response(turns.to_json(observations), media_type=JSON)


def _content_type(request: Request) -> str:
    content_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if content_type not in (JSON, PROTOBUF):
        raise UnsupportedMediaType(f"Content-Type {content_type!r}: send {JSON} or {PROTOBUF}")
    return content_type


def _wants_protobuf(request: Request, content_type: str) -> bool:
    accepted = request.headers.get("accept", "")
    return PROTOBUF in accepted or (content_type == PROTOBUF and JSON not in accepted)
