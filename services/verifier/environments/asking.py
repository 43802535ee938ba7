"""One HTTP answer, within a time and a size that are the whole answer's, whatever the server does meanwhile."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import httpx

from rgopd.verifier.environment_config import EnvironmentConfig

MAX_BYTES = 4 << 20
_THREADS_CONNECT = 64
_CONNECT_S = 5.0


class NoAnswer(Exception):
    """The server could not be reached, broke off, or took too long: it may be asked again."""


class BadAnswer(Exception):
    """It answered, and no repetition would make that an answer."""


@dataclass(frozen=True)
class Answer:
    """Status, body, and where a redirect leads."""

    status: int
    data: bytes
    location: str = ""


class Asker:
    """Posts JSON to one server, from many threads. An event loop of its own holds the clock: a blocking read begins its
    time anew with every byte, so that headers which trickle would never end.

    Args:
        config: its url and time-out.
        token: bearer token that it asks for.
    """

    def __init__(self, config: EnvironmentConfig, token: str = "") -> None:
        self.config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="environment-http", daemon=True)
        self._thread.start()
        # Unencoded: a few kilobytes of gzip are gigabytes of answer.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        self._client = httpx.AsyncClient(
            base_url=config.url.rstrip("/"),
            headers=headers | ({"Authorization": f"Bearer {token}"} if token else {}),
            timeout=httpx.Timeout(config.timeout_s, connect=min(_CONNECT_S, config.timeout_s)),
            limits=httpx.Limits(max_connections=_THREADS_CONNECT),
        )

    def post(self, path: str, body: bytes) -> Answer:
        """What the server answers. Redirects are not followed: the token is this server's.

        Raises:
            NoAnswer, BadAnswer: none, or one that cannot be read; says why.
        """
        return asyncio.run_coroutine_threadsafe(self._post(path, body), self._loop).result()

    async def _post(self, path: str, body: bytes) -> Answer:
        try:
            async with asyncio.timeout(self.config.timeout_s):
                async with self._client.stream("POST", path, content=body) as response:
                    return await self._read(response)
        except TimeoutError:
            raise NoAnswer(f"no whole answer within {self.config.timeout_s:g} s") from None
        except httpx.RequestError as problem:
            raise NoAnswer(f"{type(problem).__name__}: {problem}") from problem

    async def _read(self, response: httpx.Response) -> Answer:
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            raise BadAnswer(f"answered in the encoding {encoding[:40]!r}, which was not asked for")
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > MAX_BYTES:
                raise BadAnswer(f"answered more than {MAX_BYTES} bytes")
        return Answer(response.status_code, bytes(data), response.headers.get("location", ""))

    def close(self) -> None:
        """End its connections and its thread."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
