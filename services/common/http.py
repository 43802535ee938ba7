"""The HTTP shell of a service: problem documents, size limit, bearer token, health, metrics.

A service builds `create_app(shell, ...)`, adds its one route, and gives `ServiceState` to whatever loads,
drains or breaks. Collaborators come in as arguments; there are no globals.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rgopd.common.errors import Overloaded, RgopdError, TooLarge, Unauthorized, Unavailable
from rgopd.common.hub import Repo

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Probes carry no token."""


@dataclass
class ServiceState:
    """What the probes report. `ready` is set once loaded and isolated; `draining` on SIGTERM."""

    ready: bool = False
    draining: bool = False
    reason: str = "starting"
    progress: str = ""
    """How far that is, while it loads."""
    repos: list[Repo] = field(default_factory=list)
    """What it may have to download first."""
    trouble: str = ""
    """Why it cannot work now though it is loaded: the probe says so, and calls are tried all the same."""
    broken: bool = False
    """What is wrong stays: the process drains and ends with exit code 1, for its supervisor to start another."""
    info: dict[str, Any] = field(default_factory=dict)

    def require_ready(self) -> None:
        """Raise `Unavailable` (503) while starting or draining."""
        if self.draining:
            raise Unavailable("draining: this replica is shutting down, send the request to another one")
        if not self.ready:
            raise Unavailable(f"not ready: {self.reason}" + (f"; {self.progress}" if self.progress else ""))


def problem(status: int, detail: str, kind: str = "about:blank", **extra: Any) -> Response:
    """An RFC 9457 problem document."""
    body = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **extra}
    return Response(json.dumps(body), status_code=status, media_type=PROBLEM_JSON)


def problem_from(error: RgopdError) -> Response:
    """The problem document of one of our errors, with Retry-After where it helps."""
    response = problem(error.status, str(error), kind=f"urn:rgopd:problem:{error.kind}")
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = "1"
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


class BodyLimit:
    """Answer 413 before or while reading a body over `max_bytes`; Content-Length is checked first."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; other scopes than HTTP pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = TooLarge(f"request body is over the limit of {self.max_bytes} bytes; send fewer items a call")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_bytes:
            await problem_from(error)(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise error
            return message

        await self.app(scope, limited, send)


def _bearer_check(token: str) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    async def check(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path in OPEN_PATHS:
            return await call_next(request)
        given = request.headers.get("authorization", "")
        # Bytes, since compare_digest refuses non-ASCII strings; constant time in the token's content.
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return problem_from(Unauthorized("send the configured token as 'Authorization: Bearer <token>'"))
        return await call_next(request)

    return check


def create_app(
    title: str,
    state: ServiceState,
    registry: CollectorRegistry,
    *,
    token: str = "",
    max_body_bytes: int = 64 << 20,
    lifespan: Any = None,
    docs: bool = True,
) -> FastAPI:
    """A FastAPI app with /healthz, /readyz, /metrics, /info, problem documents, the token and the size limit.

    docs: serve /docs and /redoc, whose scripts come from another host.
    """
    app = FastAPI(
        title=title, lifespan=lifespan, docs_url="/docs" if docs else None, redoc_url="/redoc" if docs else None
    )
    if token:
        app.middleware("http")(_bearer_check(token))
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    _add_error_handlers(app)
    ProcessCollector(registry=registry)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Alive: the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """Ready: loaded and isolated, not draining."""
        state.require_ready()
        if state.trouble:
            raise Unavailable(f"not ready: {state.trouble}")
        return Response('{"status":"ready"}', media_type="application/json")

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", tags=["health"])
    async def info() -> dict[str, Any]:
        """What this replica serves: model or isolation, limits, modes."""
        return state.info

    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RgopdError)
    async def ours(_: Request, error: RgopdError) -> Response:
        return problem_from(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        errors = [{"loc": list(e["loc"]), "msg": e["msg"]} for e in error.errors()]
        status = 400 if any(e["type"] == "json_invalid" for e in error.errors()) else 422
        detail = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors[:5])
        return problem(status, detail, kind="urn:rgopd:problem:invalid_input", errors=errors[:20])

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("unhandled error in a request", exc_info=error)
        return problem(500, "internal error; the service's log has the traceback", kind="urn:rgopd:problem:internal")
