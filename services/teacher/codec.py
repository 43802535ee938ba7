"""Request bytes -> checked items, scores -> response bytes, for both content types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, Malformed, TooLarge
from rgopd.protos import common_pb2, teacher_pb2
from rgopd.teacher.alignment.aligner import Aligner, student_view
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.items import Across, Int, Score, ScoreItem, Scoring, SupportKind
from rgopd.teacher.schemas import RolloutIn, ScoreOut, ScoreTopkRequest, ScoreTopkResponse
from rgopd.teacher.validation import make_item, make_scoring

SUPPORTS: dict[int, SupportKind] = {
    teacher_pb2.SUPPORT_STUDENT: "student",
    teacher_pb2.SUPPORT_TEACHER: "teacher",
    teacher_pb2.SUPPORT_NONE: "none",
}
ACROSS: dict[int, Across] = {
    teacher_pb2.ACROSS_MAPPED: "mapped",
    teacher_pb2.ACROSS_RANKED: "ranked",
    teacher_pb2.ACROSS_HYBRID: "hybrid",
}


def items_from_json(
    body: bytes, info: EngineInfo, max_rollouts: int, aligner: Aligner | None = None
) -> list[ScoreItem]:
    """Read a ScoreTopkRequest. With an aligner, ids are the student's, and prompts are read as messages.

    Raises:
        Malformed: not JSON.
        InvalidInput: JSON that does not fit; the text names the field or the rollout.
    """
    try:
        request = ScoreTopkRequest.model_validate_json(body)
    except ValidationError as error:
        raise _from_pydantic(error) from error
    _check_call(request.model, len(request.rollouts), info, max_rollouts)
    scoring = make_scoring(request.support, request.k, request.temperature, info)
    return _unique([_item_from_json(rollout, scoring, info, aligner, request.across) for rollout in request.rollouts])


def items_from_proto(
    request: teacher_pb2.ScoreRequest, info: EngineInfo, max_rollouts: int, aligner: Aligner | None = None
) -> list[ScoreItem]:
    """Read a ScoreRequest; the items' arrays are views of its bytes.

    Raises:
        InvalidInput: as `items_from_json`.
    """
    wire.check_schema(request.header)
    _check_call(request.model, len(request.rollouts), info, max_rollouts)
    if request.topk_dtype not in (0, common_pb2.DTYPE_FLOAT32, common_pb2.DTYPE_FLOAT16):
        raise InvalidInput("topk_dtype: must be DTYPE_FLOAT32 or DTYPE_FLOAT16")
    scoring = make_scoring(support_kind(request.support), request.k, set_temperature(request.temperature), info)
    across = across_kind(request.across)
    return _unique([_item_from_proto(rollout, scoring, info, aligner, across) for rollout in request.rollouts])


def check_rollout_count(body: bytes, max_rollouts: int) -> None:
    """Count the top-level rollouts of a ScoreRequest without parsing it.

    An empty rollout takes 2 bytes on the wire and a hundred in memory, so the count comes before the parser. Walks
    at most `max_rollouts` + a few fields; anything odd is left for the parser to name.

    Raises:
        TooLarge: more than `max_rollouts`.
    """
    position, rollouts, fields = 0, 0, 0
    while position < len(body):
        tag, position = _varint(body, position)
        if tag & 7 == 2:
            length, position = _varint(body, position)
            position += length
        elif tag & 7 == 0:
            _, position = _varint(body, position)
        else:
            position += {1: 8, 5: 4}.get(tag & 7, len(body))
        rollouts += tag == _ROLLOUTS_TAG
        fields += 1
        if rollouts > max_rollouts or fields > 4 * max_rollouts + 64:
            raise TooLarge(f"rollouts: more than the limit of {max_rollouts} in one call; send fewer a call")


_ROLLOUTS_TAG = teacher_pb2.ScoreRequest.ROLLOUTS_FIELD_NUMBER << 3 | 2


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """(value, next position); past the end or over 10 bytes the position jumps behind the body."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(body):
            break
        byte = body[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return value, len(body)


def set_temperature(temperature: float) -> float:
    """A message's temperature: protobuf reads a field that was left out as 0, which stands for 1."""
    return temperature or 1.0


def support_kind(code: int) -> SupportKind:
    """The support named by a proto enum value.

    Raises:
        InvalidInput: unset or unknown.
    """
    if code not in SUPPORTS:
        raise InvalidInput("support: set SUPPORT_STUDENT, SUPPORT_TEACHER or SUPPORT_NONE")
    return SUPPORTS[code]


def across_kind(code: int) -> Across:
    """What an enum value asks of a teacher with another tokenizer.

    Raises:
        InvalidInput: unknown.
    """
    if code not in ACROSS:
        raise InvalidInput("across: set ACROSS_MAPPED, ACROSS_RANKED or ACROSS_HYBRID")
    return ACROSS[code]


def response_to_json(items: Sequence[ScoreItem], scores: Sequence[Score], info: EngineInfo) -> bytes:
    """A ScoreTopkResponse. Ids are written even where the caller knows them: JSON is the door for people."""
    response = ScoreTopkResponse.model_construct(
        model=info.model,
        revision=info.revision,
        scoring=info.scoring,
        scores=[
            ScoreOut.model_construct(
                id=item.id,
                sampled_logprobs=score.sampled_logprobs_T.tolist(),
                topk_ids=_tolist(score.topk_ids_TK),
                topk_logprobs=_tolist(score.topk_logprobs_TK),
                tail_logprob=_tolist(score.tail_logprob_T),
                aligned=_tolist(score.aligned_T),
                rest_logprob=_tolist(score.rest_logprob_T),
            )
            for item, score in zip(items, map(student_view, items, scores), strict=True)
        ],
    )
    return response.model_dump_json(exclude_none=True).encode()


def response_to_proto(
    items: Sequence[ScoreItem],
    scores: Sequence[Score],
    info: EngineInfo,
    topk_dtype: int = 0,
    header: common_pb2.Header | None = None,
) -> teacher_pb2.ScoreResponse:
    """A ScoreResponse; ids are left out where the caller sent them."""
    return teacher_pb2.ScoreResponse(
        header=header,
        model=info.model,
        revision=info.revision,
        scoring=info.scoring,
        scores=[score_to_proto(i, s, topk_dtype) for i, s in zip(items, scores, strict=True)],
    )


def score_to_proto(item: ScoreItem, score: Score, topk_dtype: int = 0) -> teacher_pb2.TeacherScore:
    """A TeacherScore, at the student's positions. float16 costs up to 2^-11 of a log-prob's size, 5e-3 at -10."""
    score = student_view(item, score)
    message = teacher_pb2.TeacherScore(id=item.id, sampled_logprobs=wire.to_tensor(score.sampled_logprobs_T))
    if score.topk_logprobs_TK is not None and score.tail_logprob_T is not None:
        narrow = topk_dtype == common_pb2.DTYPE_FLOAT16
        topk_TK: NDArray[Any] = score.topk_logprobs_TK.astype(np.float16) if narrow else score.topk_logprobs_TK
        message.topk_logprobs.CopyFrom(wire.to_tensor(topk_TK))
        message.tail_logprob.CopyFrom(wire.to_tensor(score.tail_logprob_T))
        own = item.scoring.support == "teacher" or score.aligned_T is not None
        if own and score.topk_ids_TK is not None:
            message.topk_ids.CopyFrom(wire.to_tensor(score.topk_ids_TK))
    if score.aligned_T is not None:
        message.aligned.CopyFrom(wire.to_tensor(score.aligned_T))
    if score.rest_logprob_T is not None:
        message.rest_logprob.CopyFrom(wire.to_tensor(score.rest_logprob_T))
    return message


def _item_from_json(
    rollout: RolloutIn, scoring: Scoring, info: EngineInfo, aligner: Aligner | None, across: Across
) -> ScoreItem:
    support_ids = None
    if rollout.support_ids is not None:
        widths = {len(row) for row in rollout.support_ids}
        if len(widths) > 1:
            raise InvalidInput(
                f"rollout {rollout.id!r}: support_ids: rows hold {min(widths)} to {max(widths)} ids; "
                "pad the shorter ones with -1"
            )
        support_ids = np.array(rollout.support_ids, np.int32)
    response_ids = np.array(rollout.response_ids, np.int32)
    if aligner is not None:
        messages = json.dumps(rollout.messages, ensure_ascii=False) if rollout.messages else ""
        return aligner.item(rollout.id, messages, response_ids, support_ids, scoring, info, across)
    return make_item(rollout.id, np.array(rollout.prompt_ids, np.int32), response_ids, support_ids, scoring, info)


def _item_from_proto(
    rollout: teacher_pb2.ScoreItem, scoring: Scoring, info: EngineInfo, aligner: Aligner | None, across: Across
) -> ScoreItem:
    support_ids = (
        tensor_ids(rollout.support_ids, rollout.id, "support_ids", 2) if rollout.HasField("support_ids") else None
    )
    response_ids = tensor_ids(rollout.response_ids, rollout.id, "response_ids", 1)
    if aligner is not None:
        return aligner.item(rollout.id, rollout.messages_json, response_ids, support_ids, scoring, info, across)
    prompt_ids = tensor_ids(rollout.prompt_ids, rollout.id, "prompt_ids", 1)
    return make_item(rollout.id, prompt_ids, response_ids, support_ids, scoring, info)


def tensor_ids(tensor: common_pb2.Tensor, rollout_id: str, field: str, ndim: int) -> Int:
    """An int32 tensor field of a rollout, named in the error."""
    name = f"rollout {rollout_id[:256]!r}: {field}"
    if len(tensor.shape) > 8:  # before anything walks it: 64 MiB can claim 64 million axes
        raise InvalidInput(f"{name}: must have {ndim} axes, got {len(tensor.shape)}")
    if not tensor.dtype and not tensor.data:
        raise InvalidInput(f"{name}: missing; send at least one id")
    return wire.from_tensor(tensor, name, dtype="int32", ndim=ndim)


def _check_call(model: str, rollouts: int, info: EngineInfo, max_rollouts: int) -> None:
    if model and model != info.model:
        raise InvalidInput(f"model: this service holds {info.model!r}, not {model[:256]!r}; leave it out to accept any")
    if not rollouts:
        raise InvalidInput("rollouts: send at least one")
    if rollouts > max_rollouts:
        raise TooLarge(f"rollouts: {rollouts} in one call, the limit is {max_rollouts}; send fewer a call")


def _unique(items: list[ScoreItem]) -> list[ScoreItem]:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InvalidInput(f"rollout {item.id!r}: two rollouts of the call have this id")
        seen.add(item.id)
    return items


def _tolist(array: NDArray[Any] | None) -> Any:
    return None if array is None else array.tolist()


def _from_pydantic(error: ValidationError) -> InvalidInput:
    problems = error.errors(include_url=False, include_input=False)
    if any(p["type"] == "json_invalid" for p in problems):
        return Malformed(f"body is not JSON: {problems[0]['msg']}")
    text = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems[:5])
    return InvalidInput(text)
