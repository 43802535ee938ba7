"""Conversations: which turn of a request is next, by what the blob store holds, and what follows from it.

A request's conversations go together. One delivery of the request samples one turn of all that go on, as one batch,
and stores each; the acknowledgement puts one job on `environment`, whose answer puts the request back on `generate`.
How far it is nobody remembers: it is read from the stored turns and observations, so a sampler that dies costs the turn
that it was at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgopd.common import wire
from rgopd.common.between import Between
from rgopd.common.conversation import OBSERVATION, TURN, judged, transcript, turn_key
from rgopd.common.deliveries import Outcome
from rgopd.common.errors import ConfigError
from rgopd.common.identity import derive_seed
from rgopd.common.streams import ENVIRONMENT, ROLLOUT, Streams
from rgopd.common.tool_forms import form_of, turn_text
from rgopd.protos import environment_pb2, rollout_pb2
from rgopd.sampler.engine import Sample, SamplerEngine, SampleSpec, SamplingOptions
from rgopd.sampler.publish import SILENT, Publisher, Slot, slots_of

Ids = NDArray[np.int32]


def converses(request: rollout_pb2.GenerateRequest) -> bool:
    """Whether any of a request's prompts has an environment."""
    return any(group.prompt.HasField("environment") for group in request.groups)


@dataclass
class Line:
    """One rollout's conversation, as far as it is stored."""

    slot: Slot
    turns: list[rollout_pb2.Turn] = field(default_factory=list)
    observations: list[environment_pb2.Observation] = field(default_factory=list)
    between: list[Ids] = field(default_factory=list)
    """What follows each turn but the last."""
    told: list[str] = field(default_factory=list)
    """The observations in it, as the student reads them."""
    closed: bool = False
    """Its rollout is stored."""

    @property
    def prompt(self) -> rollout_pb2.Prompt:
        """The prompt that it began with."""
        return self.slot.group.prompt

    @property
    def talks(self) -> bool:
        """Whether an environment answers; without one the first turn is the rollout."""
        return self.prompt.HasField("environment")

    def pieces(self) -> list[tuple[Ids, bool]]:
        """Everything after the prompt in order, and whether the student sampled it."""
        found: list[tuple[Ids, bool]] = []
        for number, turn in enumerate(self.turns):
            found.append((wire.from_tensor(turn.response_ids, "response_ids", dtype="int32", ndim=1), True))
            if number < len(self.between):
                found.append((self.between[number], False))
        return found

    def context(self) -> Ids:
        """What the next turn is sampled from."""
        return np.concatenate([self.slot.spec.prompt_ids_C, *(ids for ids, _ in self.pieces())])


@dataclass(frozen=True)
class Round:
    """One turn of a request's conversations.

    Attributes:
        number: which, from 0.
        slots: what the batch samples from, with the contexts of this turn; a function of what was stored before it.
        lines: by rollout id.
        sampled: every turn of it is stored: the environments alone are owed.
    """

    number: int
    slots: list[Slot]
    lines: dict[str, Line]
    sampled: bool

    def has(self, slot: Slot) -> bool:
        """Whether an earlier holder of the request stored this turn."""
        line = self.lines[slot.rollout_id]
        return line.closed or len(line.turns) > self.number


class Conversations:
    """The turns of an engine's requests.

    Args:
        engine: its tokenizer and its context bound what may follow a turn.
    """

    def __init__(self, streams: Streams, publisher: Publisher, engine: SamplerEngine) -> None:
        self.streams = streams
        self.publisher = publisher
        self.engine = engine
        self._between: dict[str, Between] = {}

    def next(self, request: rollout_pb2.GenerateRequest, options: SamplingOptions) -> Round | None:
        """The turn that is owed; None where every conversation has ended. Those found ended are published; one after
        which the student's chat template cannot go on is an `error`."""
        lines = {slot.rollout_id: Line(slot) for slot in slots_of(request)}
        going, number = list(lines.values()), 0
        while going:
            slots = [self._slot(line, request, options, number) for line in going]
            self._read_turns(going, number)
            members = {line.slot.rollout_id: line for line in going}
            round_ = Round(number, slots, members, all(line.closed or len(line.turns) > number for line in going))
            if not round_.sampled:
                return round_
            going = [line for line in going if not self._settled(line, request)]
            if not self._read_observations(going, number):
                return round_
            going = [line for line in going if not self._answered(line, request)]
            number += 1
        return None

    def store(self, request: rollout_pb2.GenerateRequest, round_: Round, slot: Slot, sample: Sample) -> None:
        """One sampled turn. What is stored under its name already stands."""
        line = round_.lines[slot.rollout_id]
        if not line.talks and len(sample.response_ids_T):
            self.publisher.publish(request, line.slot, sample)
            line.closed = True
            return
        self.publisher.tokens.inc(len(sample.response_ids_T))
        if len(line.turns) > round_.number:
            return
        turn = rollout_pb2.Turn(
            response_ids=wire.to_tensor(sample.response_ids_T),
            sampled_logprobs=wire.to_tensor(sample.sampled_logprobs_T),
            support_ids=wire.to_tensor(sample.support_ids_TK),
            text=turn_text(self.engine.tokenizer, sample.response_ids_T.tolist()),
            finish_reason=rollout_pb2.FINISH_STOP if sample.finished else rollout_pb2.FINISH_LENGTH,
        )
        key = turn_key(slot.rollout_id, round_.number)
        if not self.streams.blobs.put(TURN, key, turn.SerializeToString()):
            earlier = self.streams.blobs.get(TURN, key, announced=True)
            turn = wire.parse(rollout_pb2.Turn, earlier) if earlier is not None else turn
        line.turns.append(turn)
        self._settled(line, request)

    def after(self, request: rollout_pb2.GenerateRequest, round_: Round) -> Outcome:
        """What the acknowledgement of this delivery announces: the environments' part of the turn."""
        open_lines = [line for line in round_.lines.values() if not self._settled(line, request)]
        if not open_lines:
            return Outcome()
        calls = request.turns.calls
        if calls in ("", "auto"):
            calls = form_of(self.engine.tokenizer.chat_template)
        job = environment_pb2.StepJob(
            header=request.header,
            episodes=[_episode(line, calls) for line in open_lines],
            request=request.SerializeToString(),
        )
        return Outcome(announce=[(ENVIRONMENT, job.SerializeToString())])

    def _slot(self, line: Line, request: Any, options: SamplingOptions, number: int) -> Slot:
        group, index, first = line.slot.group, line.slot.index, line.slot.spec
        if not line.talks:
            return line.slot
        # At least 1: a prompt that fills the context is the engine's to refuse.
        length = max(1, min(options.max_new_tokens, self._room(line, request, 0)))
        seed = derive_seed(group.seed, index, "turn", number) if number else first.seed
        return Slot(group, index, SampleSpec(line.context(), seed, length))

    def _read_turns(self, lines: Sequence[Line], number: int) -> None:
        ids = [line.slot.rollout_id for line in lines]
        there = dict(zip(ids, self.streams.blobs.present(ROLLOUT, ids), strict=True))
        # Of a line that does not talk there is one only where it was nothing.
        keys = [turn_key(line.slot.rollout_id, number) for line in lines]
        for line, data in zip(lines, self.streams.blobs.get_many(TURN, keys), strict=True):
            if data is not None:
                line.turns.append(wire.parse(rollout_pb2.Turn, data))
        for line in lines:
            if there[line.slot.rollout_id] and (not line.talks or len(line.turns) <= number):
                line.closed = True  # without its turns, which may have been let go: the rollout is what counts

    def _read_observations(self, lines: Sequence[Line], number: int) -> bool:
        """Whether all of them are there."""
        keys = [turn_key(line.slot.rollout_id, number) for line in lines]
        found = self.streams.blobs.get_many(OBSERVATION, keys)
        for line, data in zip(lines, found, strict=True):
            if data is not None:
                line.observations.append(wire.parse(environment_pb2.Observation, data))
        return None not in found

    def _settled(self, line: Line, request: rollout_pb2.GenerateRequest) -> bool:
        """Whether a line has ended with its last turn: cut at the length limit, or without a token of it."""
        if line.closed or not line.turns:
            return line.closed
        if not line.turns[-1].response_ids.shape[0]:
            line.closed = True
            self.publisher.failed(request, line.slot, SILENT)
        elif line.turns[-1].finish_reason == rollout_pb2.FINISH_LENGTH:
            self._finish(line, request, rollout_pb2.FINISH_LENGTH)
        return line.closed

    def _answered(self, line: Line, request: rollout_pb2.GenerateRequest) -> bool:
        """Take in what the environment said of the last turn; whether the line ends with it."""
        said = line.observations[-1]
        if said.done or said.error:
            self._finish(line, request, rollout_pb2.FINISH_STOP)
        elif len(line.turns) >= max(1, request.turns.max_turns):
            self._finish(line, request, rollout_pb2.FINISH_TURNS)
        else:
            last = int(wire.from_tensor(line.turns[-1].response_ids, "response_ids")[-1])
            try:
                told = self._template(line).shown(said.text, request.turns.max_observation_tokens)
                ids = self._template(line).ids(last, told)
            except ConfigError as problem:  # of this observation or role: the request's other conversations go on
                said.error = str(problem)
                self._finish(line, request, rollout_pb2.FINISH_STOP)
                return True
            if self._room(line, request, len(ids)) < 1:
                self._finish(line, request, rollout_pb2.FINISH_LENGTH)
            else:
                line.between.append(ids)
                line.told.append(told)
        return line.closed

    def _template(self, line: Line) -> Between:
        role = line.prompt.environment.role or "user"
        if role not in self._between:
            self._between[role] = Between(self.engine.tokenizer, role)
        return self._between[role]

    def _room(self, line: Line, request: rollout_pb2.GenerateRequest, more: int) -> int:
        """Tokens that another turn may have, behind `more` that come before it."""
        used = sum(len(ids) for ids, _ in line.pieces()) + more
        context = self.engine.max_context - len(line.slot.spec.prompt_ids_C) - used
        return min(context, request.turns.max_tokens - used) if request.turns.max_tokens else context

    def _finish(self, line: Line, request: rollout_pb2.GenerateRequest, reason: rollout_pb2.FinishReason) -> None:
        line.closed = True
        if not self.streams.blobs.present(ROLLOUT, [line.slot.rollout_id])[0]:
            self.publisher.finish(request, line.slot, self._rollout(line, request, reason))

    def _rollout(
        self, line: Line, request: rollout_pb2.GenerateRequest, reason: rollout_pb2.FinishReason
    ) -> rollout_pb2.Rollout:
        pieces = line.pieces()
        turns, k = iter(line.turns), line.turns[0].support_ids.shape[1]
        logprobs: list[NDArray[Any]] = []
        support: list[NDArray[Any]] = []
        for ids, own in pieces:
            if own:
                turn = next(turns)
                logprobs.append(wire.from_tensor(turn.sampled_logprobs, "sampled_logprobs"))
                support.append(wire.from_tensor(turn.support_ids, "support_ids"))
            else:
                logprobs.append(np.zeros(len(ids), np.float32))
                support.append(np.full((len(ids), k), -1, np.int32))
        rollout = self.publisher.rollout(request, line.slot)
        rollout.response_ids.CopyFrom(wire.to_tensor(np.concatenate([ids for ids, _ in pieces])))
        rollout.sampled_logprobs.CopyFrom(wire.to_tensor(np.concatenate(logprobs)))
        rollout.support_ids.CopyFrom(wire.to_tensor(np.concatenate(support)))
        rollout.own.CopyFrom(wire.to_tensor(np.concatenate([np.full(len(i), own, np.int32) for i, own in pieces])))
        rollout.response_text = transcript(line.turns, line.observations)
        rollout.told.extend(line.told)
        rollout.environment.CopyFrom(line.prompt.environment)
        rollout.finish_reason = reason
        rollout.check.CopyFrom(judged(line.prompt, line.turns, line.observations))
        return rollout


def _episode(line: Line, calls: str) -> environment_pb2.Episode:
    return environment_pb2.Episode(
        id=line.slot.rollout_id,
        environment=line.prompt.environment,
        seed=line.slot.group.seed,
        actions=[turn.text for turn in line.turns],
        observations=[said.text for said in line.observations[: len(line.turns) - 1]],
        check=line.prompt.check,
        calls=calls,
    )
