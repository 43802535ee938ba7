"""From a rollout at the student's ids to one at the teacher's, and the score's way back."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import groupby, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgopd.common.errors import InvalidInput
from rgopd.teacher.alignment.chunks import chunk_starts, chunk_sums, common_chunks, one_to_one
from rgopd.teacher.alignment.side import Side
from rgopd.teacher.alignment.talk import Joined, Talk, tools_of
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.items import OWN_ID, PAD_ID, PAD_LOGPROB, Across, Alignment, Int, Score, ScoreItem, Scoring
from rgopd.teacher.validation import make_item


class Aligner:
    """Makes `ScoreItem`s of a student with another tokenizer; thread-safe.

    `support_map_V`: int32 ``[V]``, for each id of the student the teacher's id of the same bytes, PAD_ID where there is
    none; no teacher id twice. `special_map`: special tokens that may be sampled: what ends the student's answer is what
    ends the teacher's, others map by name.
    """

    def __init__(self, student: Side, teacher: Side) -> None:
        self.student = student
        self.teacher = teacher
        names = {name: token_id for token_id, name in teacher.special.items()}
        ends = {} if teacher.end is None else dict.fromkeys(student.ends, teacher.end)
        self.special_map = {i: names[name] for i, name in student.special.items() if name in names} | ends
        self.support_map_V = self._support_map()
        # The rollouts of a group share their prompt.
        self._rendered = lru_cache(maxsize=4096)(
            lambda text, tools: tuple(teacher.prompt(json.loads(text), tools_of(tools, "prompt")))
        )

    def _support_map(self) -> Int:
        map_V = np.full(self.student.size, PAD_ID, np.int32)
        for text, token_id in self.student.texts.items():
            map_V[token_id] = self.teacher.texts.get(text, PAD_ID)
        taken: set[int] = set()
        # The end of a turn before whatever else may end one: of several it is the one with a counterpart.
        for token_id in sorted(self.special_map, key=lambda i: i != self.student.end):
            target = self.special_map[token_id]
            map_V[token_id] = PAD_ID if target in taken else target
            taken.add(target)
        return map_V

    def item(
        self,
        rollout_id: str,
        messages_json: str,
        response_ids_T: Int,
        support_ids_TK: Int | None,
        scoring: Scoring,
        info: EngineInfo,
        across: Across = "mapped",
        talk: Talk | None = None,
    ) -> ScoreItem:
        """A checked item at the teacher's ids. `talk`: of a conversation.

        Raises:
            InvalidInput: no messages, a support that is the teacher's own, ranks that the engine cannot give, a
                conversation that the teacher's chat template cannot go on with, or what `make_item` refuses.
        """
        if scoring.support == "teacher":
            raise InvalidInput('support: this teacher has another tokenizer than the student: use "student" or "none"')
        where = f"rollout {rollout_id[:256]!r}"
        if across != "mapped" and (scoring.support != "student" or "teacher" not in info.supports):
            raise InvalidInput(
                f"{where}: across {across!r} compares the teacher's own top k with the student's, which needs support "
                f"student and an engine that gives both; this one ({info.engine}) offers {info.supports}"
            )
        if not messages_json:
            raise InvalidInput(
                f"{where}: this teacher has another tokenizer than the student and reads the prompt as chat messages: "
                "send messages (protobuf: messages_json), [{role, content}, ...]"
            )
        theirs = replace(info, vocab_size=self.student.size, max_context=1 << 31)
        own = make_item(rollout_id, response_ids_T[:1], response_ids_T, support_ids_TK, scoring, theirs)
        prompt_ids_C = np.array(self._prompt_ids(messages_json, talk.tools if talk else "", where), np.int32)
        if talk is None:
            alignment, response_ids_U = self.align(response_ids_T, own.support_ids_TK, across)
        else:
            alignment, response_ids_U = self.align_talk(response_ids_T, talk, own.support_ids_TK, across)
        support_UK = None
        if own.support_ids_TK is not None:
            support_UK = np.full((len(response_ids_U), own.support_ids_TK.shape[1]), PAD_ID, np.int32)
            rows_T, rows_U = alignment.pairs_M2.T
            support_UK[rows_U] = self._mapped(own.support_ids_TK[rows_T])
        item = replace(
            make_item(rollout_id, prompt_ids_C, response_ids_U, support_UK, own.scoring, info), alignment=alignment
        )
        if support_UK is None or not len(alignment.ranked_M2):
            return item
        support_UK[alignment.ranked_M2[:, 1]] = OWN_ID
        return replace(item, support_ids_TK=support_UK, scoring=replace(item.scoring, own_rows=True))

    def describe(self, student: str) -> dict[str, Any]:
        """For /info: whose tokenizer, and how many of its ids have a counterpart."""
        mapped = int((self.support_map_V != PAD_ID).sum())
        return {"student_tokenizer": student, "student_ids": self.student.size, "mapped_ids": mapped}

    def align(
        self, response_ids_T: Int, support_ids_TK: Int | None = None, across: Across = "mapped"
    ) -> tuple[Alignment, Int]:
        """A response beside the teacher's tokens of the same bytes. Those are never empty: where nothing can be aligned
        they are one token that counts for nothing."""
        lengths, ids_U, lengths_U = self._encode([int(i) for i in response_ids_T])
        covered, rows = len(lengths), len(response_ids_T)
        aligned_T = np.full(rows, -1, np.int32)
        chunk_U, pairs_M2, ranked_M2 = np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)
        if sum(lengths):
            chunk_T, chunk_U = common_chunks(np.array(lengths), np.array(lengths_U))
            aligned_T[:covered] = chunk_T
            alone_T, alone_U = one_to_one(chunk_T, chunk_U)
            same = [self._is_same(int(response_ids_T[t]), ids_U[u]) for t, u in zip(alone_T, alone_U, strict=True)]
            pairs_M2 = np.stack([alone_T, alone_U], axis=1)[np.array(same, dtype=bool)]
            if across != "mapped":
                ranked_M2 = chunk_starts(chunk_T, chunk_U)
                if across == "ranked" or support_ids_TK is None:
                    pairs_M2 = pairs_M2[:0]
                else:  # a row of which no id has a counterpart has nothing but ranks to compare
                    pairs_M2 = pairs_M2[(self._mapped(support_ids_TK[pairs_M2[:, 0]]) != PAD_ID).any(1)]
                ranked_M2 = ranked_M2[~np.isin(ranked_M2[:, 0], pairs_M2[:, 0])]
        support_TK = None
        if support_ids_TK is not None:
            support_TK = np.full_like(support_ids_TK, PAD_ID)
            rows_T = pairs_M2[:, 0]
            kept_MK = support_ids_TK[rows_T]
            support_TK[rows_T] = np.where(self._mapped(kept_MK) == PAD_ID, PAD_ID, kept_MK)
            support_TK[ranked_M2[:, 0]] = OWN_ID
        ids = np.array(ids_U or [self.teacher.end or 0], np.int32)
        return Alignment(aligned_T, chunk_U, pairs_M2, support_TK, ranked_M2), ids

    def align_talk(
        self, response_ids_T: Int, talk: Talk, support_ids_TK: Int | None = None, across: Across = "mapped"
    ) -> tuple[Alignment, Int]:
        """The same of a conversation: each turn as a response, and between two of them the teacher's template around
        what the student was told. What comes after a turn that the teacher cannot follow to its end has no value.

        Raises:
            InvalidInput: the teacher's chat template cannot go on after a turn.
        """
        joined = Joined(len(response_ids_T), None if support_ids_TK is None else support_ids_TK.shape[1])
        for at, told in zip_longest(talk.turns(), talk.told):
            support = None if support_ids_TK is None else support_ids_TK[at]
            if not joined.turn(at, *self.align(response_ids_T[at], support, across)) or told is None:
                break
            joined.between(self.teacher.between(talk.role, joined.ids_U[-1], told))
        return joined.whole(self.teacher.end or 0)

    def _mapped(self, ids_MK: Int) -> Int:
        return np.where(ids_MK == PAD_ID, PAD_ID, self.support_map_V[ids_MK.clip(min=0)]).astype(np.int32)

    def _is_same(self, student_id: int, teacher_id: int) -> bool:
        if student_id in self.student.special:
            return self.special_map.get(student_id) == teacher_id
        return self.student.tokens[student_id] == self.teacher.tokens[teacher_id]

    def _prompt_ids(self, messages_json: str, tools: str, where: str) -> tuple[int, ...]:
        try:
            return self._rendered(messages_json, tools)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{where}: messages_json is not JSON: {error}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from error

    def _encode(self, ids: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Bytes of the student's tokens as far as the teacher can follow; the teacher's tokens, and their bytes.

        A special token counts as one byte on both sides. The first token that the teacher has no word for ends it:
        what comes after it would be judged in another context than the student's.
        """
        lengths: list[int] = []
        ids_U: list[int] = []
        lengths_U: list[int] = []
        for is_special, segment in self._segments(ids):
            if is_special:
                lengths.append(1)
                ids_U.append(self.special_map[segment[0]])
                lengths_U.append(1)
                continue
            tokens = [self.student.tokens[i] for i in segment]
            if not lengths and self.student.dummy_space and tokens[0].startswith(b" "):
                tokens[0] = tokens[0][1:]  # decoding drops it: it is no part of the answer
            last = len(lengths) + len(segment) == len(ids)
            mine, theirs, lengths_theirs = self._encode_text(tokens, last)
            lengths += mine
            ids_U += theirs
            lengths_U += lengths_theirs
            if len(mine) < len(segment):
                break
        return lengths, ids_U, lengths_U

    def _segments(self, ids: list[int]) -> Iterator[tuple[bool, list[int]]]:
        """Runs of text and single special tokens, up to the first id that is neither."""
        for is_special, group in groupby(ids, lambda i: i in self.student.special):
            segment = list(group)
            if not is_special:
                whole = next((n for n, i in enumerate(segment) if not self.student.tokens[i]), len(segment))
                if whole:
                    yield False, segment[:whole]
                if whole < len(segment):
                    return
                continue
            for token_id in segment:
                if token_id not in self.special_map:
                    return
                yield True, [token_id]

    def _encode_text(self, tokens: list[bytes], last: bool) -> tuple[list[int], list[int], list[int]]:
        """Of the longest run of whole student tokens that the teacher can say; without an unfinished character where
        the response was cut."""
        whole = len(tokens)
        limit = sum(map(len, tokens))
        if last:
            decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
            decoder.decode(b"".join(tokens))
            limit -= len(decoder.getstate()[0])
        while True:
            while sum(map(len, tokens[:whole])) > limit:
                whole -= 1
            part = self.teacher.encode(b"".join(tokens[:whole]))
            if not isinstance(part, int):
                return [len(token) for token in tokens[:whole]], *part
            limit = min(part, sum(map(len, tokens[:whole])) - 1)


def student_view(item: ScoreItem, score: Score) -> Score:
    """An engine's score at the student's positions; the same where student and teacher share their ids.

    `sampled_logprobs_T`: a chunk's log-likelihood in equal parts on its tokens, 0 where the teacher has no value.
    Support: where a token maps one to one, the teacher's log-probs of the ids with a counterpart, and all else in the
    tail; in ranked rows its own largest log-probs, falling, under OWN_ID; PAD_ID, and a tail that is everything,
    elsewhere.
    """
    alignment = item.alignment
    if alignment is None:
        return score
    aligned_T, covered_T = alignment.aligned_T, alignment.aligned_T >= 0
    sampled_T, rest_T = np.zeros(len(aligned_T), np.float32), np.zeros(len(aligned_T), np.float32)
    if len(alignment.chunk_U):
        in_U = alignment.chunk_U >= 0
        sums_C = chunk_sums(score.sampled_logprobs_T[in_U], alignment.chunk_U[in_U], int(alignment.chunk_U.max()) + 1)
        share_C = sums_C / np.bincount(aligned_T[covered_T], minlength=len(sums_C))
        sampled_T[covered_T] = share_C[aligned_T[covered_T]]
        first_T, first_U = alignment.ranked_M2.T
        rest_T[first_T] = sums_C[aligned_T[first_T]] - score.sampled_logprobs_T[first_U]
    if alignment.support_ids_TK is None or score.topk_logprobs_TK is None or score.tail_logprob_T is None:
        return Score(sampled_T, aligned_T=aligned_T)
    topk_TK: NDArray[Any] = np.full(alignment.support_ids_TK.shape, PAD_LOGPROB, np.float32)
    tail_T = np.zeros(len(aligned_T), np.float32)
    rows_T, rows_U = np.concatenate([alignment.pairs_M2, alignment.ranked_M2]).T
    topk_TK[rows_T] = score.topk_logprobs_TK[rows_U]
    tail_T[rows_T] = score.tail_logprob_T[rows_U]
    rest = rest_T if len(alignment.ranked_M2) else None
    return Score(sampled_T, alignment.support_ids_TK, topk_TK, tail_T, aligned_T, rest)
