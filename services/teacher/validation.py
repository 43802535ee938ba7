"""What a rollout must satisfy before it may be queued. Every text names the rollout and says what to change."""

from __future__ import annotations

import math

import numpy as np

from rgopd.common.errors import InvalidInput
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.items import PAD_ID, Int, ScoreItem, Scoring, SupportKind

MAX_ID_CHARS = 256


def make_scoring(support: SupportKind, k: int, temperature: float, info: EngineInfo) -> Scoring:
    """Check a call's scoring options. With "student" `k` may be 0: the width of the support ids.

    Raises:
        InvalidInput: k over the limit, or a temperature that is no positive number.
    """
    if not math.isfinite(temperature) or temperature <= 0:
        raise InvalidInput(f"temperature: must be a positive number, got {temperature}; greedy runs use 1")
    if temperature != 1 and not info.any_temperature:
        raise InvalidInput(f"temperature: this teacher's engine ({info.engine}) scores at 1 only, got {temperature}")
    if support not in info.supports:
        raise InvalidInput(f"support: this teacher's engine ({info.engine}) offers {info.supports}, not {support!r}")
    if k < 0 or k > info.max_k:
        raise InvalidInput(f"k: must be at most {info.max_k} on this teacher (max_k), got {k}")
    if support == "teacher" and k == 0:
        raise InvalidInput('k: give 1 or more with support "teacher"')
    return Scoring(support, 0 if support == "none" else k, temperature)


def make_item(
    rollout_id: str, prompt_ids: Int, response_ids: Int, support_ids: Int | None, scoring: Scoring, info: EngineInfo
) -> ScoreItem:
    """A checked ScoreItem.

    Raises:
        InvalidInput: it cannot be scored as it stands.
    """
    if not rollout_id or len(rollout_id) > MAX_ID_CHARS:
        raise InvalidInput(f"rollout id: give 1 to {MAX_ID_CHARS} characters, got {len(rollout_id)}")
    where = f"rollout {rollout_id!r}"
    _check_ids(f"{where}: prompt_ids", prompt_ids, info.vocab_size)
    _check_ids(f"{where}: response_ids", response_ids, info.vocab_size)
    length = len(prompt_ids) + len(response_ids)
    if length > info.max_context:
        raise InvalidInput(
            f"{where}: prompt + response is {length} ids, the teacher's context is {info.max_context}; "
            "sample shorter responses (max_new_tokens) or use a teacher with a longer context"
        )
    if scoring.support == "student":
        scoring = _check_support(where, support_ids, len(response_ids), scoring, info)
    elif support_ids is not None:
        raise InvalidInput(f'{where}: support_ids are only for support "student", not {scoring.support!r}')
    return ScoreItem(rollout_id, prompt_ids, response_ids, scoring, support_ids)


def _check_ids(where: str, ids: Int, vocab_size: int) -> None:
    if ids.ndim != 1 or not len(ids):
        raise InvalidInput(f"{where}: must be a list of at least one id, got shape {list(ids.shape)}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise InvalidInput(
            f"{where}: id {bad} is outside the shared vocabulary 0..{vocab_size - 1}; "
            "student and teacher must use one tokenizer"
        )


def _check_support(where: str, ids_TK: Int | None, rows: int, scoring: Scoring, info: EngineInfo) -> Scoring:
    where = f"{where}: support_ids"
    if ids_TK is None or not ids_TK.size:
        raise InvalidInput(f'{where}: missing; with support "student" send ids of shape [{rows}, K]')
    if ids_TK.ndim != 2 or len(ids_TK) != rows:
        raise InvalidInput(f"{where}: need one row for each of the {rows} response ids, got shape {list(ids_TK.shape)}")
    width = ids_TK.shape[1]
    if scoring.k not in (0, width):
        raise InvalidInput(f"{where}: rows hold {width} ids but k is {scoring.k}; make them equal or leave k out")
    if width > info.max_k:
        raise InvalidInput(f"{where}: rows hold {width} ids, this teacher's limit is {info.max_k} (max_k)")
    low, high = int(ids_TK.min()), int(ids_TK.max())
    if low < PAD_ID or high >= info.vocab_size:
        bad = low if low < PAD_ID else high
        raise InvalidInput(
            f"{where}: id {bad} is outside the shared vocabulary 0..{info.vocab_size - 1} "
            f"({PAD_ID} pads a row that has fewer ids)"
        )
    if width > 1:
        ordered = np.sort(ids_TK, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PAD_ID)
        if twice.any():
            row = int(twice.any(axis=1).argmax())
            raise InvalidInput(f"{where}: row {row} names an id twice; its mass would be counted twice")
    return Scoring(scoring.support, width, scoring.temperature)
