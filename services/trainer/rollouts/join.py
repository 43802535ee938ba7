"""The join: which stages of which rollouts are done. Messages wake it; the blob store is what it believes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rgopd.common import wire
from rgopd.common.blobs import Blobs
from rgopd.common.conversation import OBSERVATION, TURN, turn_keys
from rgopd.common.deliveries import Outcome
from rgopd.common.errors import InvalidInput, RolloutGone, Unavailable
from rgopd.common.identity import rollout_id
from rgopd.common.streams import ENVIRONMENT, GENERATE, RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, VERDICT, VERIFY, Streams
from rgopd.common.teacher_client import score_stream
from rgopd.protos import rollout_pb2
from rgopd.trainer.batch.stored import why_vanished
from rgopd.trainer.rollouts.arrivals import Arrivals

log = logging.getLogger(__name__)

STAGE_BLOB = {GENERATE: ROLLOUT, VERIFY: VERDICT, SCORE: TEACHER_SCORE}
SWEEP_S = 2.0
"""With no news for this long, look into the blob store: a notification may have been lost with its server."""

ALIVE_MS = 30_000
"""A consumer asks its stream several times a second; one that has not for this long is gone or stopped."""

SERVICE = {GENERATE: "sampler", VERIFY: "verifier", SCORE: "teacher"}

MAX_LOST = 10
"""How often a later stage may say that one rollout is gone before the store itself is to blame."""


@dataclass
class Entry:
    """One rollout on its way. `failed[stage]` says why a stage gave up on it."""

    rollout_id: str
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    lost: int = 0


@dataclass
class Group:
    """The rollouts of one prompt. `wanted` are the stages that have to end before the group is complete."""

    group_id: str
    prompt: rollout_pb2.Prompt
    n: int
    seed: int
    policy_version: int
    wanted: set[str]
    redraw: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries = {rollout_id(self.group_id, i): Entry(rollout_id(self.group_id, i)) for i in range(self.n)}

    def open(self, stage: str) -> list[str]:
        """Rollouts that still wait for a stage. Nothing later comes for one that was never generated."""
        return [
            e.rollout_id
            for e in self.entries.values()
            if stage in self.wanted and stage not in e.done and stage not in e.failed and GENERATE not in e.failed
        ]

    def stream(self, stage: str) -> str:
        """Where a stage's work for this group is asked for: each named teacher has a stream of its own."""
        return score_stream(self.prompt.teacher) if stage == SCORE else stage

    def streams(self, stage: str) -> tuple[str, ...]:
        """Where that work may be: a conversation's is now with a sampler, now with an environment."""
        talks = stage == GENERATE and self.prompt.HasField("environment")
        return (GENERATE, ENVIRONMENT) if talks else (self.stream(stage),)

    @property
    def complete(self) -> bool:
        """Every wanted stage of every rollout has ended, one way or the other."""
        return not any(self.open(stage) for stage in self.wanted)


class Join:
    """Waits for groups. One per run; not thread-safe."""

    def __init__(self, streams: Streams, consumer: str) -> None:
        self.streams = streams
        self.consumer = consumer
        self.groups: dict[str, Group] = {}
        self._group_of: dict[str, str] = {}
        self._last_news = time.monotonic()
        self._looked, self._attended = 0.0, False
        self.arrivals = Arrivals(streams.blobs)
        self.progress: Callable[[Sequence[Group], bool], None] = lambda groups, done: None
        """Hears how far the groups of a wait are: all of them, and whether they are complete."""
        streams.ensure(RESULTS)

    def expect(self, group: Group) -> None:
        """Start waiting for a group; what is already in the blob store counts at once."""
        self.groups[group.group_id] = group
        self._group_of.update(dict.fromkeys(group.entries, group.group_id))
        self.sweep([group])

    def forget(self, group: Group) -> None:
        """Stop waiting; late twins of its messages are ignored."""
        self.groups.pop(group.group_id, None)
        for entry in group.entries:
            self._group_of.pop(entry, None)

    def recheck(self, groups: Iterable[Group]) -> None:
        """Forget what was seen and believe the blob store alone: something has vanished from it."""
        groups = list(groups)
        for group in groups:
            for entry in group.entries.values():
                entry.done.clear()
            # A rollout that is gone is made again, perhaps with another text: what was said of the old one goes too.
            items = list(group.entries)
            gone = [i for i, there in zip(items, self._present(ROLLOUT, items), strict=True) if not there]
            for stage in (VERDICT, TEACHER_SCORE):
                self.streams.blobs.delete(stage, gone)
        self.sweep(groups)

    def sweep(self, groups: Iterable[Group]) -> None:
        """Believe the blob store."""
        for group in groups:
            for stage in group.wanted:
                open_ids = group.open(stage)
                for item, blob in zip(open_ids, self._present(STAGE_BLOB[stage], open_ids), strict=True):
                    if blob:
                        group.entries[item].done.add(stage)
                        self._last_news = time.monotonic()

    def wait(
        self,
        groups: list[Group],
        *,
        quiet_s: float,
        in_work_s: float,
        timeout_s: float,
        tend: Callable[[list[Group]], None] = lambda _: None,
    ) -> Iterator[Group]:
        """Yield each group once, when it is complete.

        tend: called several times a second with the groups that are still incomplete; may raise to end the wait.

        Raises:
            Unavailable: no stage answered for `quiet_s`, or for `in_work_s` though somebody is alive wherever an
                answer is owed; or no rollout got further for `timeout_s`. Names the stage.
        """
        waiting = {g.group_id: g for g in groups}
        self._last_news = moved = next_sweep = time.monotonic()
        owed, self._looked = _owed(groups), 0.0
        while True:
            for group in [g for g in waiting.values() if g.complete]:
                del waiting[group.group_id]
                yield group
            self.progress(groups, not waiting)
            if not waiting:
                return
            now = time.monotonic()
            if (still := _owed(groups)) != owed:
                owed, moved = still, now
            if now - moved > timeout_s or self._silent(list(waiting.values()), quiet_s, in_work_s):
                raise Unavailable(self.diagnosis(list(waiting.values())))
            tend(list(waiting.values()))
            if not self._pump() and now > next_sweep + SWEEP_S:
                self.sweep(list(waiting.values()))
                next_sweep = now

    def _silent(self, waiting: list[Group], quiet_s: float, in_work_s: float) -> bool:
        """Whether no answer is to be expected any more, e.g. because nobody has started a verifier."""
        if self.quiet_s <= quiet_s:
            return False
        if self.quiet_s > in_work_s:
            return True
        if self._looked + SWEEP_S <= time.monotonic():
            self._looked = time.monotonic()
            owed = ((g, stage) for g in waiting for stage in g.wanted if _can_be_worked_on(g, stage))
            streams = {stream for group, stage in owed for stream in group.streams(stage)}
            self._attended = all(self._alive(stream) for stream in streams)
        return not self._attended

    def _alive(self, stream: str) -> int:
        return sum(c.idle_ms < ALIVE_MS for c in self.streams.consumers(stream))

    def _pump(self) -> bool:
        """Take what the stages announced. Acknowledged at once: everything said is also in the blob store."""
        deliveries = self.streams.read(RESULTS, self.consumer, count=512, block_ms=200)
        if not deliveries:
            # What another trainer of this run read and never finished, before it died.
            deliveries = self.streams.reclaim(RESULTS, self.consumer, count=512)
        for delivery in deliveries:
            try:
                message = wire.parse(rollout_pb2.StageDone, delivery.payload)
                wire.check_schema(message.header)
            except InvalidInput as error:
                self.streams.dead_letter(delivery, str(error))
                continue
            self._note(message)
            self.streams.complete(delivery, Outcome())
        if deliveries:
            self._last_news = time.monotonic()
        return bool(deliveries)

    def _note(self, message: rollout_pb2.StageDone) -> None:
        group = self.groups.get(self._group_of.get(message.header.rollout_id, message.group_id))
        if group is None:  # a late twin: its step is over, so nobody will delete what it has just stored
            for stage in STAGE_BLOB.values():
                self.streams.blobs.delete(stage, [message.header.rollout_id])
            return
        entry = group.entries.get(message.header.rollout_id)
        entries = [entry] if entry else list(group.entries.values())  # a failed request concerns the whole group
        lost: list[Group] = []
        for each in entries:
            if message.HasField("failure"):
                if message.stage in each.done:
                    continue  # a twin gave up on what is done
                if message.failure.kind == RolloutGone.kind:  # Redis lost the rollout before its job came to be read
                    self._lost(each, message.stage)
                    lost.append(group)
                    continue
                log.warning("%s of %s failed: %s", message.stage, each.rollout_id, message.failure.reason)
                each.failed[message.stage] = message.failure.reason
            else:
                each.done.add(message.stage)
                if entry is not None and (blob := STAGE_BLOB.get(message.stage)):
                    self.arrivals.announced(message.stage, SERVICE[message.stage], blob, entry.rollout_id)
        self.recheck(lost)  # what is open then is asked for again

    def _lost(self, entry: Entry, stage: str) -> None:
        """A stage says that a rollout is gone."""
        if stage in SERVICE:
            self.arrivals.unread(stage, SERVICE[stage], ROLLOUT, entry.rollout_id)
        entry.lost += 1
        if entry.lost >= MAX_LOST:
            raise Unavailable(
                f"rollout {entry.rollout_id} was gone {MAX_LOST} times when it was to be read; "
                + why_vanished(self.streams)
            )

    def _present(self, stage: str, item_ids: list[str]) -> list[bool]:
        return self.streams.blobs.present(stage, item_ids)

    @property
    def quiet_s(self) -> float:
        """Seconds since a stage last answered."""
        return time.monotonic() - self._last_news

    def diagnosis(self, waiting: list[Group]) -> str:
        """Who owes what, and whether anybody is there to answer."""
        lines = []
        for stage in SERVICE:
            missing: Counter[tuple[str, str]] = Counter()
            for group in waiting:
                for stream in group.streams(stage):
                    missing[stream, group.prompt.teacher if stage == SCORE else ""] += len(group.open(stage))
            for (stream, teacher), count in missing.items():
                if not count:
                    continue
                service = SERVICE[stage] if stream != ENVIRONMENT else "verifier with environments"
                depth = self.streams.depth(stream)
                alive = self._alive(stream)
                with_name = f" with teacher_name={teacher}" if teacher else ""
                who = f"{alive} {service}s are alive" if alive else f"no {service} of this run is alive: start one"
                lines.append(
                    f"{count} rollouts miss stage {stage!r} "
                    f"({depth['backlog']} messages wait, {depth['leased']} of them leased; {who}{with_name})"
                )
        return f"no stage answered for {self.quiet_s:.0f} s: " + "; ".join(lines)


def forget_turns(blobs: Blobs, groups: Iterable[Group], max_turns: int) -> None:
    """Delete what is stored of the turns of finished conversations."""
    talking = (item for group in groups if group.prompt.HasField("environment") for item in group.entries)
    keys = turn_keys(talking, max_turns)
    for stage in (TURN, OBSERVATION):
        blobs.delete(stage, keys)


def _owed(groups: Iterable[Group]) -> int:
    """Answers that are still to come."""
    return sum(len(group.open(stage)) for group in groups for stage in group.wanted)


def _can_be_worked_on(group: Group, stage: str) -> bool:
    return any(stage == GENERATE or GENERATE in group.entries[item].done for item in group.open(stage))
