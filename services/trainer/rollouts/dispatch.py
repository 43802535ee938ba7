"""Asking the stages for work: once, and again where the question or the answer was lost, or is late.

Asking twice is always safe: results are stored under the rollout's id, the first one stands, and a rollout is the
same whoever makes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rgopd.common import wire
from rgopd.common.conversation import check_of
from rgopd.common.errors import RgopdError
from rgopd.common.streams import ENVIRONMENT, GENERATE, SCORE, VERIFY, Streams, stream_depths
from rgopd.protos import rollout_pb2, teacher_pb2, verifier_pb2
from rgopd.trainer.batch.stored import read_rollouts
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.join import Group, Join
from rgopd.trainer.rollouts.patience import patience_of, rows_of

log = logging.getLogger(__name__)

STAGES = (GENERATE, VERIFY, SCORE)
SUPPORT = {
    "student": teacher_pb2.SUPPORT_STUDENT,
    "teacher": teacher_pb2.SUPPORT_TEACHER,
    "none": teacher_pb2.SUPPORT_NONE,
}
ACROSS = {
    "mapped": teacher_pb2.ACROSS_MAPPED,
    "ranked": teacher_pb2.ACROSS_RANKED,
    "hybrid": teacher_pb2.ACROSS_HYBRID,
}
TEND_S = 2.0
TELL_S = 15.0
MAX_TWINS = 3


class Interrupted(RgopdError):
    """The trainer was asked to stop while it waited; between two steps nothing is half done."""

    kind = "interrupted"


@dataclass
class _Late:
    """Since when a stage has owed an answer, and how often it was asked again for it."""

    since: float
    twins: int = 0


class Dispatch:
    """The orchestrator's outgoing side.

    Args:
        claim: tells whether Redis still holds this run.
        republish: announces the policy versions again, after Redis came back empty.
        should_stop: whether the process was asked to leave.
    """

    def __init__(
        self,
        config: TrainConfig,
        streams: Streams,
        join: Join,
        claim: Claim,
        *,
        republish: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.config = config
        self.streams = streams
        self.join = join
        self.claim = claim
        self.republish = republish
        self.should_stop = should_stop
        self.asked_again = 0
        self.patience = patience_of(config, max(config.eval.groups_per_request, rows_of(config)))
        self._across = ACROSS[config.build_objective().across_rows]
        self._asked: dict[str, tuple[bytes, str]] = {}
        """Of each group its request, and the first group in that."""
        self._missed: set[tuple[str, str]] = set()
        self._late: dict[tuple[str, str], _Late] = {}
        self._next_tend = 0.0
        self._next_word = 0.0
        self._ensured: set[str] = set()
        self._ensure(STAGES)

    # -- asking ---------------------------------------------------------------------------------------------------

    def generate(self, groups: Sequence[Group], size: int) -> None:
        """Ask for groups to train on, `size` a request, of one temperature and length each.

        The cut into requests is by position, never by what is missing: a batch is part of the numbers. What is sampled
        alike is asked for together, since vLLM's rows in work share a temperature.
        """
        for batch in alike(groups, self._sampling, size):
            self.send(batch, self._request(batch))

    def send(self, batch: Sequence[Group], request: rollout_pb2.GenerateRequest) -> None:
        """Wait for the groups of one request from now on, and send it unless all of them are there already."""
        payload = request.SerializeToString()
        self._ensure(
            stream for group in batch for stage in (SCORE, GENERATE) for stream in group.streams(stage)
        )  # before the sampler writes to it, so that all can see it
        for group in batch:
            self.join.expect(group)
            self._asked[group.group_id] = payload, batch[0].group_id
        if any(group.open(GENERATE) for group in batch):
            self._add(GENERATE, payload, batch[0].group_id)
        for group in batch:
            if len(group.open(GENERATE)) < group.n:  # from before a restart: what follows may never have been sent
                for stage in (VERIFY, SCORE):
                    self.announce(group, stage, _ready(group, stage))

    def announce(self, group: Group, stage: str, items: Sequence[str]) -> None:
        """Hand finished rollouts to the verifier or the teacher."""
        if not items:
            return
        for rollout in read_rollouts(self.streams, list(items)):
            if rollout is None:
                continue
            if stage == SCORE:
                message: Any = self.score_job(group, rollout.header.rollout_id)
                message.temperature = rollout.temperature or message.temperature
                message.tokens = rollout.prompt_ids.shape[0] + rollout.response_ids.shape[0]
            else:
                check = check_of(group.prompt.check, rollout)
                message = verifier_pb2.VerifyJob(header=rollout.header, group_id=group.group_id, check=check)
            self._add(group.stream(stage), message.SerializeToString(), group.group_id)

    def _add(self, stream: str, payload: bytes, group: str) -> None:
        """Waits for room in a full stream."""
        self.streams.add_wait(stream, payload, group, timeout_s=self.patience.in_work_s)

    def _ensure(self, streams: Iterable[str]) -> None:
        for stream in set(streams) - self._ensured:
            self.streams.ensure(stream)
            self._ensured.add(stream)

    def forget(self, groups: Iterable[Group]) -> None:
        """Nothing is asked again for these."""
        for group in groups:
            self._asked.pop(group.group_id, None)
            for stage in STAGES:
                for item in group.entries:
                    self._late.pop((stage, item), None)

    def _request(self, groups: Sequence[Group]) -> rollout_pb2.GenerateRequest:
        distillation = self.config.distillation
        sampling, (temperature, length) = self.config.sampling, self._sampling(groups[0])
        at_once = SCORE in groups[0].wanted
        return rollout_pb2.GenerateRequest(
            header=wire.header(self.config.run_id),
            request_id=groups[0].group_id,
            groups=[rollout_pb2.GroupRequest(group_id=g.group_id, prompt=g.prompt, n=g.n, seed=g.seed) for g in groups],
            policy_version=groups[0].policy_version,
            sampling=rollout_pb2.SamplingParams(
                temperature=temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_new_tokens=length,
                support_k=distillation.width if distillation.support == "student" else 0,
            ),
            purpose="train",
            verify=True,
            score_job=self.score_job(groups[0]) if at_once else None,
            turns=turn_limits(self.config, groups),
        )

    def _sampling(self, group: Group) -> tuple[float, int]:
        """Temperature and longest response of a group's rollouts."""
        sampling, domain = self.config.sampling, group.prompt.domain
        return sampling.temperature_of(domain), sampling.length_of(domain)

    def score_job(self, group: Group, item: str = "") -> teacher_pb2.ScoreJob:
        """A job for the teacher; without an item, the template whose names samplers fill in."""
        distillation = self.config.distillation
        return teacher_pb2.ScoreJob(
            header=wire.header(self.config.run_id, item),
            group_id=group.group_id if item else "",
            k=distillation.width,
            support=SUPPORT[distillation.support],
            temperature=self._sampling(group)[0],
            teacher=group.prompt.teacher if item else "",
            across=self._across,
        )

    # -- asking again ---------------------------------------------------------------------------------------------

    def tend(self, waiting: list[Group]) -> None:
        """Called all the time while the join waits; looks closer every two seconds.

        Raises:
            Interrupted: the process was asked to stop.
            TakenOver: another trainer has this run now.
        """
        if self.should_stop():
            raise Interrupted("asked to stop while waiting for rollouts")
        now = time.monotonic()
        if now < self._next_tend:
            return
        self._next_tend = now + TEND_S
        if not self.claim.holds():
            log.warning("Redis came back empty: announcing the policy again and asking again for what was in flight")
            self.republish()
            self.join.recheck(self.join.groups.values())
        self._ask_again(waiting, self._lost(waiting), "lost")
        self._ask_again(waiting, self._stragglers(waiting, now), "late")
        if self.join.quiet_s > TELL_S and now >= self._next_word:
            self._next_word = now + TELL_S
            log.warning("waiting: %s", self.join.diagnosis(waiting))

    def _lost(self, waiting: list[Group]) -> set[tuple[str, str]]:
        """(stage, rollout) that are owed although the stream of the stage (or of the teacher) is empty, twice in a row.

        The order matters: a result is stored in the transaction that empties the stream, so what was ready before
        the stream was seen empty, and is open after, is in nobody's hands. Twice, so that a failure that is
        announced but not yet read does not count as a loss.
        """
        self.join.sweep(waiting)
        ready = _streams_of_ready(waiting)
        # A request with conversations goes to and fro between two streams: looked at there, here, and there again.
        streams = sorted({stream for found in ready.values() for stream in found}, key=lambda s: s == ENVIRONMENT)
        empty = {stream for stream in streams if self.streams.depth(stream)["backlog"] == 0}
        empty -= {stream for stream in empty & {GENERATE} if self.streams.depth(stream)["backlog"]}
        self.join.sweep(waiting)
        open_now = {(stage, item) for stage in STAGES for group in waiting for item in group.open(stage)}
        missed = {key for key in ready.keys() & open_now if set(ready[key]) <= empty}
        lost, self._missed = missed & self._missed, missed
        return lost

    def _stragglers(self, waiting: list[Group], now: float) -> set[tuple[str, str]]:
        """Owed for long, with nothing queued before them: only slow hands hold them. A twin may overtake."""
        late: set[tuple[str, str]] = set()
        if not self.patience.redispatch_s(VERIFY):
            return late
        owed = _streams_of_ready(waiting)
        depths = stream_depths(self.streams, {stream for streams in owed.values() for stream in streams})
        for key, streams in owed.items():
            entry = self._late.setdefault(key, _Late(now))
            if any(depths[stream]["backlog"] > depths[stream]["leased"] for stream in streams):
                entry.since = now  # still in the queue: its clock has not started
            elif now - entry.since > self.patience.redispatch_s(key[0]) * 2**entry.twins and entry.twins < MAX_TWINS:
                entry.twins += 1
                entry.since = now
                late.add(key)
        return late

    def _ask_again(self, waiting: list[Group], owed: set[tuple[str, str]], why: str) -> None:
        if not owed:
            return
        self.asked_again += len(owed)
        self._missed -= owed
        log.warning("asking again for %d answers that are %s, e.g. %s", len(owed), why, " of ".join(min(owed)))
        asked = {self._asked[g.group_id] for g in waiting if any((GENERATE, item) in owed for item in g.entries)}
        for payload, first in sorted(asked):
            self._add(GENERATE, payload, first)
        for group in waiting:
            for stage in (VERIFY, SCORE):
                self.announce(group, stage, [item for item in group.entries if (stage, item) in owed])


def turn_limits(config: TrainConfig, groups: Iterable[Group]) -> rollout_pb2.TurnLimits | None:
    """The bounds of a request's conversations; None where it has none."""
    if not any(group.prompt.HasField("environment") for group in groups):
        return None
    turns = config.turns
    return rollout_pb2.TurnLimits(
        max_turns=turns.max_turns,
        max_tokens=turns.max_total_tokens,
        max_observation_tokens=turns.max_observation_tokens,
        calls=turns.tool_calls,
    )


def alike(groups: Sequence[Group], sampling: Callable[[Group], Any], size: int) -> Iterator[list[Group]]:
    """Batches of up to `size` groups that are sampled alike, in the order in which each kind first stands."""
    kinds: dict[Any, list[Group]] = {}
    for group in groups:
        kinds.setdefault(sampling(group), []).append(group)
    for same in kinds.values():
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _ready(group: Group, stage: str) -> list[str]:
    """Rollouts of a group that the stage could be working on now."""
    items = group.open(stage)
    return items if stage == GENERATE else [i for i in items if GENERATE in group.entries[i].done]


def _streams_of_ready(groups: Iterable[Group]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(stage, rollout) that could be in work now, and the streams where each may be."""
    return {(stage, i): group.streams(stage) for group in groups for stage in STAGES for i in _ready(group, stage)}
