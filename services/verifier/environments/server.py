"""An environment behind HTTP: OpenEnv's POST /reset and POST /step.

Every turn names its episode and has a `request_id` that a repetition repeats. A server that has lost the episode (it
was started anew, or another replica answers: 404, 409 or 410) is told all of it again from reset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import httpx

from rgopd.verifier.environment_config import EnvironmentConfig
from rgopd.verifier.environments.base import Episode, Observation, broken, observed
from rgopd.verifier.sandbox import plain

MAX_BYTES = 4 << 20
_BUSY = frozenset({429, 502, 503, 504})
_LOST = frozenset({404, 409, 410})
_PAUSE_S = 0.25


class _Refused(Exception):
    pass


class _Lost(Exception):
    pass


class ServerEnvironment:
    """One server, called from many threads.

    Args:
        config: its url, times and retries.
        token: bearer token that it asks for.
    """

    def __init__(self, config: EnvironmentConfig, token: str = "") -> None:
        self.config = config
        self._client = httpx.Client(
            base_url=config.url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(config.timeout_s, connect=min(5.0, config.timeout_s)),
            limits=httpx.Limits(max_connections=64),
        )

    def answer(self, episode: Episode) -> Observation:
        """See `Environment`. One that cannot be reached, or answers what is no observation, is an `error`."""
        try:
            if len(episode.actions) > 1:
                try:
                    return self._step(episode, len(episode.actions))
                except _Lost:
                    pass
            return self._replay(episode)
        except (_Refused, _Lost) as problem:
            return broken(str(problem))

    def _replay(self, episode: Episode) -> Observation:
        body = {**episode.args, "episode_id": episode.id, "seed": episode.seed}
        first = self._post("/reset", body)
        if isinstance(first.get("observation"), str) and first["observation"].strip():
            raise _Refused("its reset returned a text, which the student has not read: put it into the row's prompt")
        said = Observation()
        for turn in range(1, len(episode.actions) + 1):
            said = self._step(episode, turn)
            if said.error:
                return said
            if turn < len(episode.actions) and said.text != episode.observations[turn - 1]:
                raise _Refused(f"told again, it answers turn {turn - 1} otherwise: {plain.short(said.text)}")
        return said

    def _step(self, episode: Episode, turn: int) -> Observation:
        request_id = f"{episode.id}/{turn}"
        body = {
            "episode_id": episode.id,
            "request_id": request_id,
            "action": {"message": episode.actions[turn - 1]},
        }
        answer = self._post("/step", body)
        return observed(
            _text(answer.get("observation", "")), answer.get("done", False), answer.get("reward"), self.config.max_chars
        )

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        why = ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            try:
                status, data = self._once(path, body)
            except (httpx.TransportError, TimeoutError) as problem:
                why = f"{type(problem).__name__}: {problem}"
                continue
            if status in _BUSY:
                why = f"status {status}"
                continue
            if status in _LOST and path != "/reset":
                raise _Lost(f"{self.config.url}{path} knows no episode {body['episode_id']!r}: status {status}")
            if status != 200:
                raise _Refused(f"{self.config.url}{path} answered {status}: {plain.short(data[:300])}")
            return _object(data, f"{self.config.url}{path}")
        raise _Refused(f"{self.config.url}{path} could not be reached in {self.config.retries + 1} attempts: {why}")

    def _once(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body. The time is the whole answer's: one that trickles is ended too."""
        deadline = time.monotonic() + self.config.timeout_s
        with self._client.stream("POST", path, json=body) as response:
            data = b""
            for part in response.iter_bytes():
                data += part
                if len(data) > MAX_BYTES:
                    raise _Refused(f"{self.config.url}{path} answered more than {MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no whole answer within {self.config.timeout_s:g} s")
            return response.status_code, data


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        raise _Refused(f"{where} answered what is not JSON: {plain.short(data[:200])}") from None
    if not isinstance(answer, dict):
        raise _Refused(f"{where} answered {plain.short(answer)}, not an object")
    return answer


def _text(observation: Any) -> Any:
    """OpenEnv's observations are objects: their text where they have one, else their JSON."""
    if not isinstance(observation, dict):
        return observation
    for key in ("text", "message", "content"):
        if isinstance(observation.get(key), str):
            return observation[key]
    return json.dumps(observation, ensure_ascii=False)
