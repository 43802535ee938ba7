"""The streams of one run over several Redis servers: a group's where its name says, a teacher's on its own.

`redis_url` names them all, in an order that is the same for every process:

    redis://a:6379/0,redis://b:6379/0,math=redis://c:6379/0

The first is home: policies, the score cache, the state that is shown. Groups are spread by a checksum of their name
over the servers without a name; what the stages say of a group, and store, goes to its server, so that one transaction
holds both as ever. The jobs of teacher `math` lie on the server of that name; its results are stored with their group,
then announced and acknowledged there.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redis import Redis

from rgopd.common.blobs import Blobs, RedisBlobs
from rgopd.common.deliveries import Consumer, DeadLetter, Delivery, Outcome
from rgopd.common.errors import ConfigError
from rgopd.common.streams import RESULTS, Streams

POLL_S = 0.005


def place(group: str, servers: int) -> int:
    """Which of the servers holds a group."""
    return zlib.crc32(group.encode()) % servers


class SplitBlobs(Blobs):
    """Blobs with their groups: those of a rollout lie on its group's server."""

    def __init__(self, parts: Sequence[RedisBlobs]) -> None:
        self.parts = parts
        self.run_id = parts[0].run_id
        self.ttl_s = parts[0].ttl_s
        self.where = "Redis"
        self.outside = False

    def part(self, item_id: str) -> RedisBlobs:
        """Where a rollout's blobs lie; rollouts are named `<group>-n<index>`."""
        return self.parts[place(item_id.rpartition("-n")[0] or item_id, len(self.parts))]

    def beside(self, redis: Redis, item_id: str) -> RedisBlobs | None:
        """See `Blobs`."""
        part = self.part(item_id)
        return part if part.redis is redis else None

    def put(self, stage: str, item_id: str, data: bytes) -> bool:
        """See `Blobs`."""
        return self.part(item_id).put(stage, item_id, data)

    def get(self, stage: str, item_id: str, *, announced: bool = False) -> bytes | None:
        """See `Blobs`."""
        return self.part(item_id).get(stage, item_id)

    def get_many(self, stage: str, item_ids: Sequence[str], *, announced: bool = False) -> list[bytes | None]:
        """See `Blobs`; one round trip a server."""
        found: dict[str, bytes | None] = {}
        for part, items in self._shares(item_ids):
            found.update(zip(items, part.get_many(stage, items), strict=True))
        return [found[item] for item in item_ids]

    def present(self, stage: str, item_ids: Sequence[str]) -> list[bool]:
        """See `Blobs`; one round trip a server."""
        found: dict[str, bool] = {}
        for part, items in self._shares(item_ids):
            found.update(zip(items, part.present(stage, items), strict=True))
        return [found[item] for item in item_ids]

    def delete(self, stage: str, item_ids: Iterable[str]) -> None:
        """See `Blobs`."""
        for part, items in self._shares(item_ids):
            part.delete(stage, items)

    def purge(self) -> int:
        """See `Blobs`."""
        return sum(part.purge() for part in self.parts)

    def expire(self) -> int:
        """Redis does it."""
        return 0

    def owner(self) -> str | None:
        """See `Blobs`."""
        return self.parts[0].owner()

    def own(self, token: str) -> None:
        """See `Blobs`."""
        self.parts[0].own(token)

    def check(self, wait_s: float = 10.0) -> str:
        """See `Blobs`."""
        return "; ".join(part.check(wait_s) for part in self.parts)

    def hurry(self) -> None:
        """See `Blobs`."""
        for part in self.parts:
            part.hurry()

    def _shares(self, item_ids: Iterable[str]) -> list[tuple[RedisBlobs, list[str]]]:
        shares: dict[int, list[str]] = {}
        for item in item_ids:
            shares.setdefault(self.parts.index(self.part(item)), []).append(item)
        return [(self.parts[index], items) for index, items in sorted(shares.items())]


class SplitStreams(Streams):
    """The streams of one run, wherever they lie. Workers read the parts (`parts_of`), one each.

    Args:
        servers: those that groups are spread over; the first is home.
        named: the server of a teacher's stream, by the stream's name.
        blobs: where the blobs lie, unless with their groups.
    """

    def __init__(
        self,
        servers: Sequence[Redis],
        named: Mapping[str, Redis],
        run_id: str,
        *,
        blobs: Blobs | None = None,
        **options: Any,
    ) -> None:
        everywhere = blobs or SplitBlobs([RedisBlobs(redis, run_id, where="Redis") for redis in servers])
        super().__init__(servers[0], run_id, blobs=everywhere, **options)
        self._spread = [Streams(redis, run_id, blobs=everywhere, **options) for redis in servers]
        self._named = {
            stream: Streams(redis, run_id, blobs=everywhere, **options) for stream, redis in sorted(named.items())
        }
        self.parts: list[Streams] = [*self._spread, *self._named.values()]

    # -- where ----------------------------------------------------------------------------------------------------

    def parts_of(self, stream: str) -> list[Streams]:
        """See `Streams`; results are announced on every server."""
        if stream in self._named:
            return [self._named[stream]]
        return self.parts if stream in (RESULTS, "dead") else self._spread

    def part(self, stream: str, group: str) -> Streams:
        """The server of a group's messages on a stream."""
        return self._named.get(stream) or self._spread[place(group, len(self._spread))]

    def _holder(self, delivery: Delivery | DeadLetter) -> Streams:
        return self.parts[delivery.server]

    # -- producers ------------------------------------------------------------------------------------------------

    def ensure(self, stream: str) -> None:
        """See `Streams`."""
        for part in self.parts_of(stream):
            part.ensure(stream)

    def reset(self, stream: str) -> None:
        """See `Streams`."""
        for part in self.parts_of(stream):
            part.reset(stream)

    def add(self, stream: str, payload: bytes, group: str = "") -> str:
        """See `Streams`."""
        return self.part(stream, group).add(stream, payload)

    def publish(self, outcome: Outcome, group: str = "") -> None:
        """See `Streams`; what another server is to hear is sent once the rest stands."""
        here = self.part(RESULTS, group)
        elsewhere = [(stream, payload) for stream, payload in outcome.announce if self.part(stream, group) is not here]
        mine = [message for message in outcome.announce if message not in elsewhere]
        if not elsewhere:
            here.publish(outcome)
            return
        here.publish(Outcome(outcome.blobs))
        for stream, payload in elsewhere:
            self.part(stream, group).publish(Outcome(announce=[(stream, payload)]))
        here.publish(Outcome(announce=mine))

    # -- the trainer's reading ------------------------------------------------------------------------------------

    def read(self, stream: str, consumer: str, *, count: int = 1, block_ms: int = 1000) -> list[Delivery]:
        """See `Streams`; of all servers, which are asked in turn."""
        deadline = time.monotonic() + block_ms / 1000
        while True:
            found: list[Delivery] = []
            for part in self.parts_of(stream):
                if len(found) < count:
                    read = part.read(stream, consumer, count=count - len(found), block_ms=1)
                    found += [replace(delivery, server=self.parts.index(part)) for delivery in read]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(POLL_S)

    def reclaim(self, stream: str, consumer: str, *, count: int = 16) -> list[Delivery]:
        """See `Streams`."""
        return [
            replace(delivery, server=self.parts.index(part))
            for part in self.parts_of(stream)
            for delivery in part.reclaim(stream, consumer, count=count)
        ]

    def renew(self, stream: str, consumer: str, ids: Iterable[str]) -> set[str]:
        """Not of several servers: ids are names on one of them. Workers renew on their part."""
        raise NotImplementedError("leases are renewed on the server that gave them: use parts_of")

    def release(self, stream: str, consumer: str, delivery: Delivery, reason: str, *, failed: bool = True) -> None:
        """See `Streams`."""
        self._holder(delivery).release(stream, consumer, delivery, reason, failed=failed)

    def complete(self, delivery: Delivery, outcome: Outcome) -> None:
        """See `Streams`."""
        self._holder(delivery).complete(delivery, outcome)

    def dead_letter(self, delivery: Delivery, reason: str, outcome: Outcome | None = None) -> None:
        """See `Streams`."""
        self._holder(delivery).dead_letter(delivery, reason, outcome)

    # -- the run as a whole ---------------------------------------------------------------------------------------

    def purge(self) -> int:
        """See `Streams`."""
        deleted = sum(part.purge_here() for part in self.parts)
        return deleted + (self.blobs.purge() if self.blobs.outside else 0)

    def claims(self) -> list[str | None]:
        """See `Streams`."""
        found = [part.claim_here() for part in self.parts]
        return [*found, *([self.blobs.owner()] if self.blobs.outside else [])]

    def claim(self, token: str) -> None:
        """See `Streams`; and each server is told which it is, for `doctor --cluster`."""
        for index, part in enumerate(self.parts):
            part.redis.set(self.run_key("claim"), token, ex=self.stream_ttl_s)
            part.redis.set(self.run_key("place"), f"{index} of {len(self.parts)}", ex=self.stream_ttl_s)
        for index, part in enumerate(self.parts):
            found: Any = part.redis.get(part.run_key("place"))
            if found is not None and (other := int(found.split()[0])) != index:
                raise ConfigError(
                    f"redis_url names one server twice, as number {index} and number {other} (from 0), under two "
                    "addresses: leave one out, or give each a database of its own"
                )
        if self.blobs.outside:
            self.blobs.own(token)

    def hurry(self) -> None:
        """See `Streams`."""
        for part in self.parts:
            part.hurry()

    def last_reason(self, delivery: Delivery) -> str:
        """See `Streams`."""
        return self._holder(delivery).last_reason(delivery)

    def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        """See `Streams`."""
        found = [
            replace(letter, server=index)
            for index, part in enumerate(self.parts)
            for letter in part.dead_letters(count)
        ]
        return sorted(found, key=lambda letter: tuple(map(int, letter.id.split("-"))))[:count]

    def replay(self, letter: DeadLetter) -> None:
        """See `Streams`."""
        self._holder(letter).replay(letter)

    def drop(self, letter: DeadLetter) -> None:
        """See `Streams`."""
        self._holder(letter).drop(letter)

    def depth(self, stream: str) -> dict[str, int]:
        """See `Streams`; of all servers together."""
        depths = [part.depth(stream) for part in self.parts_of(stream)]
        return {key: sum(depth[key] for depth in depths) for key in ("backlog", "leased")}

    def consumers(self, stream: str) -> list[Consumer]:
        """See `Streams`; a worker reads several servers under one name."""
        merged: dict[str, Consumer] = {}
        for part in self.parts_of(stream):
            for found in part.consumers(stream):
                known = merged.get(found.name, Consumer(found.name, 0, found.idle_ms))
                merged[found.name] = Consumer(
                    found.name, known.leased + found.leased, min(known.idle_ms, found.idle_ms)
                )
        return list(merged.values())

    def forget_idle(self, stream: str, idle_ms: int = 600_000) -> None:
        """See `Streams`."""
        for part in self.parts_of(stream):
            part.forget_idle(stream, idle_ms)

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """See `Streams`."""
        for part in self.parts_of(stream):
            part.forget_consumer(stream, consumer)
