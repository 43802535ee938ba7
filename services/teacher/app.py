"""The HTTP door: POST /score_topk in JSON or protobuf."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry

from rgopd.common import memory, wire
from rgopd.common.errors import TooLarge, Unavailable, UnsupportedMediaType
from rgopd.common.http import ServiceState, create_app
from rgopd.protos import common_pb2, teacher_pb2
from rgopd.teacher import codec
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.body import BodyGate, compress
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import precision
from rgopd.teacher.items import Score, ScoreItem
from rgopd.teacher.schemas import EXAMPLES, ScoreTopkResponse, request_schema

JSON = "application/json"
_TRIM_FROM = 1 << 20
_TRIM_AFTER_S = 0.2


class TeacherDoor:
    """What the route needs. The service comes once the model is loaded; until then the answer is 503."""

    def __init__(self, config: TeacherConfig, state: ServiceState) -> None:
        self.config = config
        self.state = state
        self._service: TeacherService | None = None
        self._json_turn = asyncio.Lock()  # JSON takes many times its size while it is read: one at a time
        self._gate = BodyGate(config.max_body_mb << 20, config.max_held_mb << 20, config.body_timeout_s)
        self._trim_due = False

    def open(self, service: TeacherService) -> None:
        """Serve with this service from now on."""
        self._service = service
        self.state.info = describe(service, self.config)

    @property
    def service(self) -> TeacherService:
        """The service; raises `Unavailable` while starting or draining."""
        self.state.require_ready()
        if self._service is None:
            raise Unavailable("not ready: the model is loading")
        return self._service

    async def score(self, request: Request) -> Response:
        """One call: read, check, queue, wait, answer."""
        service = self.service
        content_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if content_type not in (JSON, wire.PROTOBUF):
            raise UnsupportedMediaType(
                f"Content-Type {content_type!r}: send {JSON} (curl: -H 'Content-Type: {JSON}') or {wire.PROTOBUF}"
            )
        answer_type = _answer_type(request.headers.get("accept", ""), content_type)
        async with self._gate.body(request) as body:
            turn: AbstractAsyncContextManager[None] = self._json_turn if content_type == JSON else nullcontext()
            async with turn:
                if len(body) >= _TRIM_FROM:
                    self._trim_soon()
                # In a thread: decoding a large body takes long enough to hold up the probes.
                items, options = await asyncio.to_thread(self._decode, body, content_type, service)
            del body
        trace = request.headers.get("traceparent", options.header.trace_id)
        scores = await _wait(request, await asyncio.to_thread(service.submit, items, trace))
        if scores is None:
            return Response(status_code=499)  # nginx's code for a client that left; nobody reads it
        self.state.info["revision"] = service.info.revision  # a self-teacher's moves with the student
        payload = await asyncio.to_thread(_encode, items, scores, service, options, answer_type)
        payload, headers = compress(payload, request.headers.get("accept-encoding", ""))
        return Response(payload, media_type=answer_type, headers=headers)

    def _trim_soon(self) -> None:
        """What a large body took, often many times its size, goes back to the system once the call is over."""
        if self._trim_due:
            return
        self._trim_due = True
        loop = asyncio.get_running_loop()

        def start() -> None:
            self._trim_due = False
            loop.run_in_executor(None, memory.trim)

        loop.call_later(_TRIM_AFTER_S, start)

    def _decode(
        self, body: bytes, content_type: str, service: TeacherService
    ) -> tuple[list[ScoreItem], teacher_pb2.ScoreRequest]:
        if content_type == JSON:
            if len(body) > self.config.max_json_mb << 20:
                raise TooLarge(
                    f"a JSON body may have {self.config.max_json_mb} MiB; send fewer items or {wire.PROTOBUF}"
                )
            items = codec.items_from_json(body, service.info, self.config.max_rollouts, service.aligner)
            return items, teacher_pb2.ScoreRequest()
        message = wire.parse(teacher_pb2.ScoreRequest, body)
        options = teacher_pb2.ScoreRequest(header=message.header, topk_dtype=message.topk_dtype)
        return codec.items_from_proto(message, service.info, self.config.max_rollouts, service.aligner), options


def _answer_type(accept: str, content_type: str) -> str:
    offered = {part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()}
    if wire.PROTOBUF in offered:
        return wire.PROTOBUF
    if JSON in offered:
        return JSON
    # */* and the like: answer in the language of the question.
    return content_type


def _encode(
    items: list[ScoreItem],
    scores: list[Score],
    service: TeacherService,
    options: teacher_pb2.ScoreRequest,
    answer_type: str,
) -> bytes:
    if answer_type == JSON:
        return codec.response_to_json(items, scores, service.info)
    header = common_pb2.Header()
    header.CopyFrom(options.header)
    header.schema_version = wire.SCHEMA_VERSION
    return codec.response_to_proto(items, scores, service.info, options.topk_dtype, header).SerializeToString()


async def _wait(request: Request, futures: Sequence[Future[Score]]) -> list[Score] | None:
    """All scores, or the first error. None when the client left: its rollouts then leave the queue."""
    scores = asyncio.ensure_future(asyncio.gather(*map(asyncio.wrap_future, futures)))
    gone = asyncio.create_task(_disconnected(request))
    waiting: set[asyncio.Future[Any]] = {scores, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return scores.result() if scores.done() else None
    except asyncio.CancelledError:
        if not any(future.cancelled() for future in futures):
            raise  # this request's own task is being stopped
        raise Unavailable("shutting down before this call was scored; send it to another replica") from None
    finally:
        gone.cancel()
        scores.cancel()
        for future in futures:
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def describe(service: TeacherService, config: TeacherConfig) -> dict[str, Any]:
    """The body of /info."""
    return {
        "service": "teacher",
        **asdict(service.info),
        "precision": precision(service.info.dtype),
        "deterministic": config.deterministic,
        "aligned": None if service.aligner is None else service.aligner.describe(config.student_tokenizer),
        "schema_version": wire.SCHEMA_VERSION,
        "limits": {
            "max_k": service.info.max_k,
            "max_context": service.info.max_context,
            "max_rollouts": config.max_rollouts,
            "max_body_mb": config.max_body_mb,
            "max_queue_tokens": config.max_queue_tokens,
        },
    }


def make_app(door: TeacherDoor, registry: CollectorRegistry) -> FastAPI:
    """The teacher's app around a door."""
    app = create_app(
        "rgopd teacher",
        door.state,
        registry,
        token=door.config.bearer_token(),
        max_body_bytes=door.config.max_body_mb << 20,
    )

    @app.post(
        "/score_topk",
        tags=["score"],
        summary="Teacher log-probs of rollouts at the sampled ids and at a support",
        responses={
            200: {"model": ScoreTopkResponse, "content": {wire.PROTOBUF: {}}},
            **{code: {"description": text} for code, text in _PROBLEMS.items()},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {"schema": request_schema(), "examples": EXAMPLES},
                    wire.PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
                },
            }
        },
    )
    async def score_topk(request: Request) -> Response:
        """Log-probs are at the request's temperature, over the shared vocabulary, before any truncation."""
        return await door.score(request)

    return app


_PROBLEMS = {
    400: "Not JSON, or not the protobuf message",
    401: "No bearer token, or not the configured one",
    408: "The body came too slowly",
    413: "Over a size limit",
    415: "A content type that is not spoken",
    422: "Well formed, but cannot be scored as it stands",
    429: "Full; see Retry-After",
    503: "Loading or draining",
}
