"""A service keeps descriptors for its own work: connections beyond its bound get a 503 and the others go on."""

from __future__ import annotations

import asyncio
import resource

import uvicorn
from fastapi import FastAPI

from rgopd.common.server import bounded_protocol, raise_descriptor_limit


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /x HTTP/1.1\r\nHost: t\r\n\r\n")
    try:
        return await reader.read(4096)
    except ConnectionError:  # told and closed before the question was there
        return b""


def test_connections_beyond_the_bound_are_told_and_the_others_served() -> None:
    asyncio.run(scenario())


async def scenario() -> None:
    app = FastAPI()

    @app.get("/x")
    async def x() -> str:
        return "here"

    server = uvicorn.Server(uvicorn.Config(app, port=0, http=bounded_protocol(2), log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for connection in first:
        assert b'"here"' in await ask(*connection)
    late = await asyncio.open_connection("127.0.0.1", port)
    told = await late[0].read()
    assert told.startswith(b"HTTP/1.1 503 ")
    head, _, body = told.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Retry-After" in head
    assert b'"here"' in await ask(*first[0])
    first[1][1].close()
    while True:
        await asyncio.sleep(0.01)
        again = await asyncio.open_connection("127.0.0.1", port)
        if b'"here"' in await ask(*again):
            break
    for _, writer in (first[0], late, again):
        writer.close()
    server.should_exit = True
    await serving


def test_the_soft_limit_is_raised_to_what_is_allowed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        most = raise_descriptor_limit()
        assert most == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert most > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
