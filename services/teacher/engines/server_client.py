"""HTTP to a server that belongs to someone else: its key, its limits, another try, one sentence for what it says."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.teacher.engines import EngineFault

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_REFUSED = frozenset({400, 404, 405, 413, 415, 422, 501})
MAX_WAIT_S = 120.0
"""A server that asks for a longer pause than this has failed the call."""


class ServerClient:
    """One server under `server_url`. All its calls share their pauses: a 429 to one is a 429 to all."""

    def __init__(self, config: TeacherConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if not config.server_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"server_url: {config.server_url!r} is no URL; give the server's base URL, e.g. --set "
                "server_url=http://gpu1:8000/v1"
            )
        self.url = config.server_url.rstrip("/").removesuffix("/v1")
        self._key, self._named = config.key(), config.server_key_env or "server_key (RGOPD_SERVER_KEY)"
        self._retries = config.server_retries
        self._apart_s = 60.0 / config.server_per_minute if config.server_per_minute else 0.0
        self._next_start = 0.0
        self._slots = asyncio.Semaphore(config.server_requests)
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(config.server_timeout_s, connect=min(10.0, config.server_timeout_s)),
            limits=httpx.Limits(max_connections=config.server_requests),
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, path: str, retries: int = 0) -> Any:
        """A JSON answer; errors as `post`."""
        return await self._ask("GET", path, None, retries)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer, after as many further attempts as the settings allow.

        Raises:
            InvalidInput: the server refuses this request; another attempt would not help.
            ConfigError: it wants another key, or has no quota left for this one.
            EngineFault: it does not answer, or nothing that can be read.
        """
        return await self._ask("POST", path, body, self._retries)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, retries: int) -> Any:
        for attempt in range(retries + 1):
            async with self._slots:
                await self._turn()
                try:
                    answer = await self._client.request(method, path, json=body)
                except httpx.TransportError as error:
                    fault = EngineFault(f"{self.url}{path}: {type(error).__name__} {error}".rstrip())
                    wait_s = _backoff(attempt)
                else:
                    if answer.status_code == 200:
                        return self._json(path, answer)
                    fault, wait_s = self._failed(path, answer), _retry_after(answer) or _backoff(attempt)
            if attempt == retries or wait_s > MAX_WAIT_S:
                raise fault
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt raises or returns")

    async def _turn(self) -> None:
        """Wait until a request may start."""
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + self._apart_s
        if start > now:
            await asyncio.sleep(start - now)

    def _json(self, path: str, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except json.JSONDecodeError as error:
            raise EngineFault(f"{self.url}{path} answered no JSON: {answer.text[:200]!r}") from error

    def _failed(self, path: str, answer: httpx.Response) -> EngineFault:
        """What may be tried again; all else is raised."""
        code, said = answer.status_code, _said(answer)
        if code in (401, 403):
            what = "refuses the key in" if self._key else "wants a key: set server_key_env, or"
            raise ConfigError(f"{self.url} {what} {self._named} ({code}): {said}")
        if code == 402 or "insufficient_quota" in answer.text:
            raise ConfigError(f"{self.url} has no quota left for the key in {self._named} ({code}): {said}")
        if code in _REFUSED:
            raise InvalidInput(f"{self.url} refused {path} ({code}): {said}")
        if code in _AGAIN:
            if code == 429 and (pause_s := _retry_after(answer)) <= MAX_WAIT_S:
                self._next_start = max(self._next_start, time.monotonic() + pause_s)
            return EngineFault(f"{self.url}{path} answered {code}: {said}")
        where = f" to {answer.headers['location']}: set server_url to it" if "location" in answer.headers else ""
        raise ConfigError(f"{self.url}{path} answered {code}{where}: {said}")


def _backoff(attempt: int) -> float:
    """Seconds, doubling, with jitter: many clients must not come back at once."""
    return min(30.0, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks for, in either of the header's forms; 0: it does not."""
    value = answer.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value)) if value else 0.0
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _said(answer: httpx.Response) -> str:
    """The server's own words, in one line."""
    try:
        body = answer.json()
    except ValueError:
        body = answer.text
    if isinstance(body, dict):
        inner = body.get("error", body.get("detail", body.get("message", body)))
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(body).split())[:300] or "nothing"
