"""The page's doors. All of them only read; every answer is made of what `Hub` holds or of one file of a run."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from prometheus_client import CollectorRegistry
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from rgopd.common.errors import InvalidInput, Overloaded
from rgopd.common.http import ServiceState, create_app
from rgopd.watch.csv_rows import csv_of
from rgopd.watch.export import page_of
from rgopd.watch.guard import Guard
from rgopd.watch.hub import Hub
from rgopd.watch.rollouts import Filter, rollout_of, rollouts_of, support_of

PAGE = str(files("rgopd.watch") / "page")
KEEP_ALIVE_S = 15.0
MAX_POINTS = 4000

RunName = Annotated[str, Query(description="A run, as /api/runs names it.")]


def build_app(
    hub: Hub,
    state: ServiceState,
    registry: CollectorRegistry,
    *,
    token: str = "",
    hosts: list[str] | None = None,
    poll_s: float = 1.0,
    max_clients: int = 32,
) -> FastAPI:
    """The app. `token`: what every request must carry; empty: requests must name this machine (`Guard`)."""
    app = create_app("rgopd watch", state, registry, max_body_bytes=1 << 20, docs=False)
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(Guard, token=token, hosts=hosts or [])
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    _add_reads(app, hub)
    _add_rollouts(app, hub)
    clients = 0

    @app.get("/api/events")
    async def events(request: Request, run: Annotated[list[str], Query()] = []) -> StreamingResponse:  # noqa: B006
        """Server-sent events: `now` of each named run whenever it changes, `runs` when one comes or goes."""
        nonlocal clients
        if clients >= max_clients:
            raise Overloaded(f"{clients} pages are open, which is watch.max_clients", retry_after=10)

        async def gone() -> bool:
            return state.draining or await request.is_disconnected()

        async def stream() -> AsyncIterator[str]:
            nonlocal clients
            clients += 1
            try:
                async for text in _events(hub, run, poll_s, gone):
                    yield text
            finally:
                clients -= 1

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    return app


async def _events(hub: Hub, names: list[str], poll_s: float, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
    sent: dict[str, str] = {}
    silent_s = 0.0
    while not await gone():
        news = await asyncio.to_thread(hub.news, names)
        fresh = {key: text for key, text in news.items() if sent.get(key) != text}
        sent.update(fresh)
        for key, text in fresh.items():
            yield f"event: {key.partition(' ')[0]}\ndata: {text}\n\n"
        if not fresh and silent_s >= KEEP_ALIVE_S:
            yield ": still here\n\n"
        silent_s = 0.0 if fresh or silent_s >= KEEP_ALIVE_S else silent_s + poll_s
        await asyncio.sleep(poll_s)


def _add_reads(app: FastAPI, hub: Hub) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(f"{PAGE}/index.html", media_type="text/html")

    @app.get("/api/runs")
    def runs() -> Response:
        """All runs, and those that the page shows first."""
        return reply(hub.overview())

    @app.get("/api/now")
    def now(run: RunName) -> Response:
        """What a run is doing."""
        return reply(hub.now(run))

    @app.get("/api/names")
    def names(run: RunName) -> Response:
        """Columns of a run: of metrics.jsonl, and of timings.jsonl under `clock`."""
        return reply(hub.run(run).names())

    @app.get("/api/series")
    def series(
        run: RunName,
        name: Annotated[list[str], Query()] = [],  # noqa: B006
        low: int = 0,
        high: int = 1 << 60,
        points: Annotated[int, Query(ge=2, le=MAX_POINTS)] = 600,
    ) -> Response:
        """Columns between two steps, thinned out to `points` points: mean, least and greatest of the steps of each."""
        return reply(hub.run(run).series(name, low, high, points))

    @app.get("/api/evaluations")
    def evaluations(run: RunName) -> Response:
        """Every evaluation, with 95% intervals."""
        return reply(hub.run(run).evaluations())

    @app.get("/api/queues")
    def queues(run: RunName) -> Response:
        """Streams, workers, leases and dead letters as Redis has them, and what happened to processes."""
        return reply(hub.faults(run))

    @app.get("/api/config")
    def config(run: RunName) -> Response:
        """The settings in force."""
        return reply(hub.run(run).config())

    @app.get("/api/csv")
    def csv(run: RunName, name: Annotated[list[str], Query()] = []) -> StreamingResponse:  # noqa: B006
        """Every step of a run with all of its digits, read from metrics.jsonl; `name`: only these columns."""
        folder = hub.run(run).folder
        return StreamingResponse(csv_of(folder, name), media_type="text/csv", headers=attached(f"{folder.name}.csv"))

    @app.get("/api/report")
    def report(run: RunName) -> Response:
        """The run as one self-contained page."""
        found = hub.run(run)
        headers = {**attached(f"{found.folder.name}.html"), "Content-Security-Policy": "sandbox"}
        return Response(page_of(found), media_type="text/html", headers=headers)


def _add_rollouts(app: FastAPI, hub: Hub) -> None:
    @app.get("/api/rollouts")
    def rollouts(
        run: RunName,
        step: Annotated[int | None, Query(ge=0)] = None,
        domain: str = "",
        sign: str = "",
        kept: str = "",
        verdict: str = "",
        text: Annotated[str, Query(max_length=1000)] = "",
    ) -> Response:
        """What is kept of a step: groups, and their rollouts without figures of tokens. No step: the newest."""
        chosen = Filter(domain=domain, sign=sign, kept=kept, verdict=verdict, text=text)
        return reply(rollouts_of(hub.run(run), step, chosen))

    @app.get("/api/rollout")
    def rollout(run: RunName, step: int, id: str) -> Response:
        """One rollout: its tokens with gap, loss and what the gate decided."""
        return reply(rollout_of(hub.run(run), step, id))

    @app.get("/api/support")
    def support(
        run: RunName, step: int, id: str, first: Annotated[int, Query(ge=0)], count: Annotated[int, Query(ge=1, le=512)]
    ) -> Response:
        """Student's and teacher's likeliest tokens at some positions of a rollout, and the tails."""
        return reply(support_of(hub.run(run), step, id, first, count))


def attached(name: str) -> dict[str, str]:
    """Headers of a file to keep; folders may be called anything, headers may not."""
    return {"Content-Disposition": f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "_", name)}"'}


def reply(content: Any) -> Response:
    """JSON without NaN, which browsers refuse."""
    try:
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InvalidInput(f"a file of the run holds a number that JSON has no word for: {error}") from error
    # Unpaired surrogates in a model's text have no UTF-8.
    return Response(text.encode("utf-8", "replace"), media_type="application/json")
