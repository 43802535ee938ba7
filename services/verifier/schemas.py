"""The two forms of a request and an answer: JSON (pydantic) and protobuf, to and from the engine's types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, Malformed, TooLarge
from rgopd.protos import verifier_pb2
from rgopd.verifier.verdict import Status, Verdict

_CODES = {
    Status.passed: verifier_pb2.VERDICT_PASSED,
    Status.failed: verifier_pb2.VERDICT_FAILED,
    Status.error: verifier_pb2.VERDICT_ERROR,
}


MAX_ID = 512


@dataclass(frozen=True)
class Item:
    """One thing to check; `fields` are the kind's own."""

    id: str
    kind: str
    response: str
    fields: dict[str, Any]


class VerifyItem(BaseModel):
    """An item of the JSON door: id, kind, response, and the kind's own fields beside them."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(min_length=1, max_length=MAX_ID)
    kind: str = Field(min_length=1, max_length=64)
    response: str


class VerifyRequest(BaseModel):
    """Many items a call."""

    model_config = ConfigDict(extra="forbid")

    items: list[VerifyItem] = Field(min_length=1)


class TestOutcomeModel(BaseModel):
    """One test of a code item."""

    __test__ = False

    status: Status
    reason: str
    duration_ms: float


class VerdictModel(BaseModel):
    """`reward` is null exactly when status is "error"."""

    id: str
    status: Status
    reward: float | None
    reason: str
    extracted: str | None = None
    tests: list[TestOutcomeModel] = []
    duration_ms: float


class VerifyResponse(BaseModel):
    """Verdicts in the order of the items."""

    verdicts: list[VerdictModel]


@lru_cache
def _request_model(max_items: int) -> type[VerifyRequest]:
    """The request with its bound inside the parser: what is over it is not made into objects first."""
    items = (list[VerifyItem], Field(min_length=1, max_length=max_items))
    return create_model("BoundedVerifyRequest", __base__=VerifyRequest, items=items)


def items_from_json(body: bytes, max_items: int) -> list[Item]:
    """Parse the JSON door's body.

    Raises:
        Malformed: not JSON. InvalidInput: JSON that does not fit. TooLarge: too many items.
    """
    try:
        request = _request_model(max_items).model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["type"] == "too_long" and first["loc"] == ("items",):
            raise TooLarge(f"more than {max_items} items in one call; send at most {max_items}") from problem
        if first["type"] == "json_invalid":
            raise Malformed(f"the body is not JSON: {first['msg']}") from problem
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}") from problem
    return [Item(i.id, i.kind, i.response, dict(i.model_extra or {})) for i in request.items]


def items_from_protobuf(body: bytes, max_items: int) -> list[Item]:
    """Parse the protobuf door's body; the same errors."""
    request = wire.parse(verifier_pb2.VerifyRequest, body)
    wire.check_schema(request.header)
    if not request.items:
        raise InvalidInput("items: send at least one item")
    if len(request.items) > max_items:
        raise TooLarge(f"{len(request.items)} items in one call; send at most {max_items}")
    nameless = next((n for n, item in enumerate(request.items) if not 0 < len(item.id) <= MAX_ID), None)
    if nameless is not None:
        raise InvalidInput(f"items.{nameless}.id: has to have 1 to {MAX_ID} characters")
    return [item_from_check(item.id, item.check) for item in request.items]


def item_from_check(item_id: str, check: verifier_pb2.Check) -> Item:
    """One protobuf check; `spec_json` must hold a JSON object."""
    try:
        fields = json.loads(check.spec_json) if check.spec_json else {}
    except (ValueError, RecursionError) as problem:
        raise Malformed(f"item {item_id!r}: spec_json is not JSON: {problem}") from problem
    if not isinstance(fields, dict):
        raise InvalidInput(f"item {item_id!r}: spec_json must hold a JSON object, not a {type(fields).__name__}")
    return Item(item_id, check.kind, check.response, fields)


def to_json(verdicts: list[Verdict]) -> bytes:
    """The JSON door's answer."""
    return json.dumps({"verdicts": [_as_dict(v) for v in verdicts]}, ensure_ascii=False, allow_nan=False).encode(
        "utf-8"
    )


def _as_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.id,
        "status": verdict.status.value,
        "reward": verdict.reward,
        "reason": verdict.reason,
        "extracted": verdict.extracted,
        "tests": [
            {"status": t.status.value, "reason": t.reason, "duration_ms": round(t.duration_ms, 3)}
            for t in verdict.tests
        ],
        "duration_ms": round(verdict.duration_ms, 3),
    }


def to_message(verdict: Verdict) -> verifier_pb2.Verdict:
    """One verdict as protobuf."""
    message = verifier_pb2.Verdict(
        id=verdict.id, status=_CODES[verdict.status], reason=verdict.reason, duration_ms=verdict.duration_ms
    )
    if verdict.reward is not None:
        message.reward = verdict.reward
    if verdict.extracted is not None:
        message.extracted = verdict.extracted
    for test in verdict.tests:
        message.tests.add(status=_CODES[test.status], reason=test.reason, duration_ms=test.duration_ms)
    return message


def to_protobuf(verdicts: list[Verdict]) -> bytes:
    """The protobuf door's answer."""
    return verifier_pb2.VerifyResponse(verdicts=[to_message(v) for v in verdicts]).SerializeToString()
