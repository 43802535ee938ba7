"""A conversation beside the teacher's tokens: turn by turn, with what was said between under its own template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgopd.common.conversation import own_tokens
from rgopd.common.errors import InvalidInput
from rgopd.protos import rollout_pb2
from rgopd.teacher.items import PAD_ID, Alignment, Int


@dataclass(frozen=True)
class Talk:
    """What a conversation is besides its ids.

    Attributes:
        own_T: bool, True where the student sampled the token.
        told: what stands in each gap between two of its turns, as the student read it.
        role: of those messages.
        tools: that the template shows, JSON; "" for none.
    """

    own_T: NDArray[np.bool_]
    told: tuple[str, ...]
    role: str = "user"
    tools: str = ""

    def turns(self) -> Iterator[slice]:
        """Positions of each turn of the student's."""
        edges = np.flatnonzero(np.diff(self.own_T.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        yield from (slice(int(start), int(stop)) for start, stop in edges)


def talk_of(rollout: rollout_pb2.Rollout) -> Talk | None:
    """A rollout's conversation; None for a single turn.

    Raises:
        InvalidInput: its parts do not fit each other.
    """
    own_T = own_tokens(rollout)
    if own_T is None:
        return None
    where = f"rollout {rollout.header.rollout_id!r}"
    talk = Talk(own_T, tuple(rollout.told), rollout.environment.role or "user", rollout.environment.tools_json)
    if not own_T[0] or not own_T[-1] or len(list(talk.turns())) != len(talk.told) + 1:
        raise InvalidInput(
            f"{where}: {len(talk.told)} observations do not fit the gaps between its turns; is its sampler of an older "
            "version than the teacher?"
        )
    return talk


def tools_of(text: str, where: str) -> list[dict[str, Any]]:
    """The tools of a conversation; InvalidInput for what is no list of objects."""
    try:
        tools = json.loads(text) if text else []
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}: tools_json is not JSON: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidInput(f"{where}: tools_json must be a list of JSON schemas")
    return tools


class Joined:
    """Alignments of turns, one behind the other, with tokens between them that belong to no chunk.

    Args:
        rows: response tokens of the student, those of its environment included.
        k: width of the support; None without one.
    """

    def __init__(self, rows: int, k: int | None) -> None:
        self.aligned_T = np.full(rows, -1, np.int32)
        self.support_TK = None if k is None else np.full((rows, k), PAD_ID, np.int32)
        self.ids_U: list[int] = []
        self._chunk_U: list[NDArray[np.int64]] = []
        self._pairs: list[NDArray[np.int64]] = []
        self._ranked: list[NDArray[np.int64]] = []
        self._chunks = 0

    def turn(self, at: slice, alignment: Alignment, ids_U: Int) -> bool:
        """Append a turn; whether the teacher could follow it to its end."""
        if not len(alignment.chunk_U):
            return False
        shift = np.array([at.start, len(self.ids_U)], np.int64)
        covered_T = alignment.aligned_T >= 0
        self.aligned_T[at] = np.where(covered_T, alignment.aligned_T + self._chunks, -1)
        if self.support_TK is not None and alignment.support_ids_TK is not None:
            self.support_TK[at] = alignment.support_ids_TK
        self._chunk_U.append(alignment.chunk_U + self._chunks)
        self._pairs.append(alignment.pairs_M2 + shift)
        self._ranked.append(alignment.ranked_M2 + shift)
        self._chunks += int(alignment.chunk_U.max()) + 1
        self.ids_U += ids_U.tolist()
        return bool(covered_T.all())

    def between(self, ids: Sequence[int]) -> None:
        """Append what stands between two turns."""
        self.ids_U += list(ids)
        self._chunk_U.append(np.full(len(ids), -1, np.int64))

    def whole(self, otherwise: int) -> tuple[Alignment, Int]:
        """All of it. `otherwise`: the one token where no turn could be followed at all."""
        none = np.zeros((0, 2), np.int64)
        return Alignment(
            self.aligned_T,
            np.concatenate([*self._chunk_U, none[:, 0]]),
            np.concatenate([*self._pairs, none]),
            self.support_TK,
            np.concatenate([*self._ranked, none]),
        ), np.array(self.ids_U or [otherwise], np.int32)
