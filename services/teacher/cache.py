"""Scores by content, in Redis: what was scored once under the same weights costs no second forward.

Least recently used entries leave when the values together pass the bound. The bound is the cache's own, since
the Redis beside it holds streams, which must never be evicted.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, Malformed
from rgopd.protos import teacher_pb2
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.items import Score, ScoreItem

log = logging.getLogger(__name__)

_TTL_S = 7 * 24 * 3600

# KEYS: values (hash), recency (sorted set), bytes (counter). ARGV: now, max bytes, ttl, then field, value, ...
# One step, so that the counter is right whoever else writes.
_PUT = """
for i = 4, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('INCRBY', KEYS[3], #ARGV[i + 1])
  end
  redis.call('ZADD', KEYS[2], ARGV[1], ARGV[i])
end
while tonumber(redis.call('GET', KEYS[3]) or 0) > tonumber(ARGV[2]) do
  local oldest = redis.call('ZPOPMIN', KEYS[2])
  if not oldest[1] then break end
  redis.call('DECRBY', KEYS[3], redis.call('HSTRLEN', KEYS[1], oldest[1]))
  redis.call('HDEL', KEYS[1], oldest[1])
end
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
"""


class ScoreCache:
    """Shared by all replicas and runs on one Redis. A Redis that fails is a cache that misses."""

    def __init__(self, redis: Redis, max_bytes: int) -> None:
        self._redis = redis
        self._max_bytes = max_bytes
        self._put = redis.register_script(_PUT)
        # The braces keep the three in one cluster slot.
        self._values, self._recency, self._bytes = (f"rgopd:{{scores}}:{name}" for name in ("values", "lru", "bytes"))

    def get_many(self, items: Sequence[ScoreItem], info: EngineInfo) -> list[Score | None]:
        """The stored scores, in order; None where there is none."""
        fields = [_field(item, info) for item in items]
        try:
            found: list[Any] = list(self._redis.hmget(self._values, fields))
            hits = {field: time.time() for field, value in zip(fields, found, strict=True) if value is not None}
            if hits:
                self._redis.zadd(self._recency, hits, xx=True)
        except RedisError as error:
            log.warning("score cache: %s", error)
            return [None] * len(items)
        return [None if value is None else _decode(item, value) for item, value in zip(items, found, strict=True)]

    def put_many(self, items: Sequence[ScoreItem], scores: Sequence[Score], info: EngineInfo) -> None:
        """Store scores; older entries leave for them."""
        arguments: list[Any] = [time.time(), self._max_bytes, _TTL_S]
        for item, score in zip(items, scores, strict=True):
            value = _encode(item, score)
            if len(value) <= self._max_bytes // 8:  # one giant must not empty the cache
                arguments += [_field(item, info), value]
        try:
            self._put(keys=[self._values, self._recency, self._bytes], args=arguments)
        except RedisError as error:
            log.warning("score cache: %s", error)


def _field(item: ScoreItem, info: EngineInfo) -> bytes:
    """A digest of everything that the numbers depend on."""
    scoring = item.scoring
    settings = (
        info.revision, info.settings, info.engine, info.dtype, info.device, info.scoring, info.vocab_size,
        scoring.support, scoring.k, scoring.temperature, len(item.prompt_ids_C),
    )  # fmt: skip
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=20)
    digest.update(item.input_ids.tobytes())
    if item.support_ids_TK is not None:
        digest.update(item.support_ids_TK.tobytes())
    return digest.digest()


def _encode(item: ScoreItem, score: Score) -> bytes:
    message = teacher_pb2.TeacherScore(sampled_logprobs=wire.to_tensor(score.sampled_logprobs_T))
    for name, array in (
        ("topk_ids", None if item.support_ids_TK is not None else score.topk_ids_TK),  # those are in the key
        ("topk_logprobs", score.topk_logprobs_TK),
        ("tail_logprob", score.tail_logprob_T),
    ):
        if array is not None:
            getattr(message, name).CopyFrom(wire.to_tensor(array))
    return message.SerializeToString()


def _decode(item: ScoreItem, value: bytes) -> Score | None:
    try:
        message = wire.parse(teacher_pb2.TeacherScore, value)
        if item.scoring.support == "none":
            return Score(wire.from_tensor(message.sampled_logprobs, dtype="float32", ndim=1))
        return Score(
            wire.from_tensor(message.sampled_logprobs, dtype="float32", ndim=1),
            item.support_ids_TK
            if item.support_ids_TK is not None
            else wire.from_tensor(message.topk_ids, dtype="int32", ndim=2),
            wire.from_tensor(message.topk_logprobs, dtype="float32", ndim=2),
            wire.from_tensor(message.tail_logprob, dtype="float32", ndim=1),
        )
    except (Malformed, InvalidInput) as error:
        log.warning("score cache: an entry cannot be read: %s", error)
        return None
