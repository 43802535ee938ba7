"""An environment behind HTTP: OpenEnv's POST /reset and POST /step.

Every turn names its episode and has a `request_id` that a repetition repeats. A server that has lost the episode (it
was started anew, or another replica answers: 404, 409 or 410) is told all of it again from reset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from rgopd.verifier.environment_config import EnvironmentConfig
from rgopd.verifier.environments.asking import Answer, Asker, BadAnswer, NoAnswer
from rgopd.verifier.environments.base import Episode, Observation, broken, observed
from rgopd.verifier.sandbox import plain

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
        self._asker = Asker(config, token)

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

    def close(self) -> None:
        """See `Environment`."""
        self._asker.close()

    def _replay(self, episode: Episode) -> Observation:
        first = self._post("/reset", {"seed": episode.seed, **episode.args, "episode_id": episode.id})
        if _said(first.get("observation")).strip():
            raise _Refused("its reset returned a text, which the student has not read: put it into the row's prompt")
        said = Observation()
        for turn in range(1, len(episode.actions) + 1):
            said = self._step(episode, turn)
            if said.error:
                return said
            if turn < len(episode.actions) and (said.done or said.text != episode.observations[turn - 1]):
                raise _Refused(
                    f"told again, it answers turn {turn - 1} otherwise: {plain.short(said.text)}"
                    f"{' and has ended' if said.done else ''}, before {plain.short(episode.observations[turn - 1])}"
                )
        return said

    def _step(self, episode: Episode, turn: int) -> Observation:
        body = {
            "episode_id": episode.id,
            "request_id": f"{episode.id}/{turn}",
            "action": {"message": episode.actions[turn - 1]},
        }
        answer = self._post("/step", body)
        return observed(
            _text(answer.get("observation")), answer.get("done", False), answer.get("reward"), self.config.max_chars
        )

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        where, why = f"{self.config.url}{path}", ""
        try:
            data = json.dumps(body, allow_nan=False).encode()
        except ValueError as problem:
            raise _Refused(f"reset's arguments cannot be sent to a server as JSON: {problem}") from problem
        for attempt in range(self.config.retries + 1):
            if attempt:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            try:
                answer = self._asker.post(path, data)
            except NoAnswer as problem:
                why = str(problem)
                continue
            except BadAnswer as problem:
                raise _Refused(f"{where} {problem}") from problem
            if answer.status in _BUSY:
                why = f"status {answer.status}"
                continue
            if answer.status in _LOST and path != "/reset":
                raise _Lost(f"{where} knows no episode {body['episode_id']!r}: status {answer.status}")
            return _object(answer, where)
        raise _Refused(f"{where} could not be reached in {self.config.retries + 1} attempts: {why}")


def _object(answer: Answer, where: str) -> dict[str, Any]:
    if answer.location and 300 <= answer.status < 400:
        raise _Refused(
            f"{where} answered {answer.status}, a redirect to {answer.location[:200]!r}: set url to where it leads"
        )
    if answer.status != 200:
        raise _Refused(f"{where} answered {answer.status}: {plain.short(answer.data[:300])}")
    try:
        said = json.loads(answer.data)
    except (ValueError, RecursionError):
        raise _Refused(f"{where} answered what is not JSON: {plain.short(answer.data[:200])}") from None
    if not isinstance(said, dict):
        raise _Refused(f"{where} answered {plain.short(said)}, not an object")
    return said


def _text(observation: Any) -> Any:
    """OpenEnv's observations are objects: their text where they have one, else their JSON."""
    if not isinstance(observation, dict):
        return observation
    if observation and not _spoken(observation):
        return json.dumps(observation, ensure_ascii=False)
    return _said(observation)


def _said(observation: Any) -> str:
    """The words of an observation in either form; "" without any."""
    if isinstance(observation, dict):
        observation = next(iter(_spoken(observation)), "")
    return observation if isinstance(observation, str) else ""


def _spoken(observation: Mapping[str, Any]) -> list[str]:
    return [said for key in ("text", "message", "content") if isinstance(said := observation.get(key), str)]
