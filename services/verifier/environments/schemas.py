"""Episodes and observations in their two forms: JSON (pydantic) and protobuf."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, Malformed, TooLarge
from rgopd.common.tool_forms import Calls
from rgopd.protos import environment_pb2
from rgopd.verifier.environments.base import Episode, Observation
from rgopd.verifier.schemas import MAX_ID

MAX_SEED = (1 << 63) - 1


class EnvironmentModel(BaseModel):
    """Which environment, and the arguments of its reset."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128)
    args: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _word(cls, said: object) -> object:
        """A bare word is the name, as in rows."""
        return {"name": said} if isinstance(said, str) else said


class CheckModel(BaseModel):
    """The task's own check, for `feedback`: its kind, and the kind's fields beside it."""

    model_config = ConfigDict(extra="allow")

    kind: str = Field(min_length=1, max_length=64)


class EpisodeModel(BaseModel):
    """A conversation so far, to be answered."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=MAX_ID)
    environment: EnvironmentModel
    seed: int = Field(0, ge=0, le=MAX_SEED)
    actions: list[str] = Field(min_length=1)
    observations: list[str] = []
    check: CheckModel | None = None
    calls: Calls = Field("auto", description="The form in which the student calls tools.")


class StepRequest(BaseModel):
    """Many episodes a call."""

    model_config = ConfigDict(extra="forbid")

    episodes: list[EpisodeModel] = Field(min_length=1)


class ObservationModel(BaseModel):
    """`error` is not empty exactly where the environment could not tell; then there is no reward."""

    id: str
    text: str
    done: bool
    reward: float | None
    error: str = ""
    duration_ms: float


class StepResponse(BaseModel):
    """Observations in the order of the episodes."""

    observations: list[ObservationModel]


def episodes_from_json(body: bytes, max_items: int) -> list[Episode]:
    """Parse the JSON door's body.

    Raises:
        Malformed: not JSON. InvalidInput: JSON that does not fit. TooLarge: too many episodes.
    """
    try:
        request = StepRequest.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["type"] == "json_invalid":
            raise Malformed(f"the body is not JSON: {first['msg']}") from problem
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}") from problem
    _bounded(len(request.episodes), max_items)
    return [
        Episode(
            e.id,
            e.environment.name,
            dict(e.environment.args),
            e.seed,
            tuple(e.actions),
            tuple(e.observations),
            e.check.kind if e.check else "",
            dict(e.check.model_extra or {}) if e.check else {},
            e.calls,
        )
        for e in request.episodes
    ]


def episodes_from_protobuf(body: bytes, max_items: int) -> list[Episode]:
    """Parse the protobuf door's body; the same errors."""
    request = wire.parse(environment_pb2.StepRequest, body)
    wire.check_schema(request.header)
    if not request.episodes:
        raise InvalidInput("episodes: send at least one")
    _bounded(len(request.episodes), max_items)
    return [from_message(episode) for episode in request.episodes]


def _bounded(count: int, max_items: int) -> None:
    if count > max_items:
        raise TooLarge(f"{count} episodes in one call; send at most {max_items}")


def from_message(message: environment_pb2.Episode) -> Episode:
    """One protobuf episode; its JSON parts must be objects."""
    if not 0 < len(message.id) <= MAX_ID:
        raise InvalidInput(f"an episode's id has to have 1 to {MAX_ID} characters")
    args = _json_object(message.environment.args_json, f"episode {message.id!r}: args_json")
    check = _json_object(message.check.spec_json, f"episode {message.id!r}: check.spec_json")
    actions, observations = tuple(message.actions), tuple(message.observations)
    name, seed = message.environment.name, message.seed & MAX_SEED
    calls = message.calls or "auto"
    if calls not in get_args(Calls):
        raise InvalidInput(f"episode {message.id!r}: calls is {calls!r}: use one of {', '.join(get_args(Calls))}")
    return Episode(message.id, name, args, seed, actions, observations, message.check.kind, check, calls)


def _json_object(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError) as problem:
        raise Malformed(f"{name} is not JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must hold a JSON object, not a {type(value).__name__}")
    return value


def to_json(observations: Sequence[Observation]) -> bytes:
    """The JSON door's answer."""
    rows = [
        {
            "id": o.id,
            "text": o.text,
            "done": o.done,
            "reward": o.reward,
            "error": o.error,
            "duration_ms": round(o.duration_ms, 3),
        }
        for o in observations
    ]
    return json.dumps({"observations": rows}, ensure_ascii=False, allow_nan=False).encode("utf-8")


def to_message(observation: Observation) -> environment_pb2.Observation:
    """One observation as protobuf."""
    return environment_pb2.Observation(
        id=observation.id,
        text=observation.text,
        done=observation.done,
        reward=observation.reward,
        error=observation.error,
        duration_ms=observation.duration_ms,
    )


def of_message(message: environment_pb2.Observation) -> Observation:
    """One protobuf observation."""
    reward = message.reward if message.HasField("reward") else None
    return Observation(message.text, message.done, reward, message.error, message.duration_ms, message.id)


def to_protobuf(observations: Sequence[Observation]) -> bytes:
    """The protobuf door's answer."""
    return environment_pb2.StepResponse(observations=map(to_message, observations)).SerializeToString()
