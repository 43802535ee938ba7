"""A request with conversations goes to and fro between two streams: where it is, whether it is lost, what is let go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rgopd.common import wire
from rgopd.common.conversation import OBSERVATION, TURN, turn_key
from rgopd.common.deliveries import Outcome
from rgopd.common.streams import ENVIRONMENT, GENERATE, VERIFY, Streams
from rgopd.protos import rollout_pb2
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.dispatch import Dispatch, turn_limits
from rgopd.trainer.rollouts.join import Group, Join, forget_turns
from rgopd.trainer.rollouts.tally import Tally


@pytest.fixture
def dispatch(streams: Streams, tmp_path: Path) -> Dispatch:
    config = TrainConfig.from_mapping(
        {"student": "x", "dataset": str(tmp_path / "d.jsonl"), "turns": {"max_turns": 3}, "run_id": streams.run_id}
    )
    claim = Claim(tmp_path, streams, {})
    join = Join(streams, "trainer")
    return Dispatch(config, streams, join, claim, republish=lambda: None, should_stop=lambda: False)


def group(name: str, environment: str = "game") -> Group:
    prompt = rollout_pb2.Prompt(prompt_id=name)
    if environment:
        prompt.environment.name = environment
    return Group(name, prompt, 2, 0, 0, {GENERATE, VERIFY})


def move(streams: Streams, here: str, there: str) -> None:
    [delivery] = streams.read(here, "w", block_ms=1000)
    streams.complete(delivery, Outcome(announce=[(there, delivery.payload)]))


def test_it_is_lost_only_where_neither_stream_has_it(dispatch: Dispatch, streams: Streams) -> None:
    talks, plain = group("s000000-g0000"), group("s000000-g0001", "")
    dispatch.send([talks], dispatch._request([talks]))
    dispatch.join.expect(plain)
    waiting = [talks, plain]
    lost_plain = {(GENERATE, item) for item in plain.entries}
    assert dispatch._lost(waiting) == set()
    move(streams, GENERATE, ENVIRONMENT)
    dispatch._missed.clear()
    assert dispatch._lost(waiting) == set(), "twice in a row"
    assert dispatch._lost(waiting) == lost_plain, "the other one is with its environments"
    move(streams, ENVIRONMENT, GENERATE)
    dispatch._missed.clear()
    assert dispatch._lost(waiting) | dispatch._lost(waiting) == set()
    streams.reset(GENERATE)
    dispatch._lost(waiting)
    assert dispatch._lost(waiting) == lost_plain | {(GENERATE, item) for item in talks.entries}


def test_a_silent_verifier_is_named(dispatch: Dispatch, streams: Streams) -> None:
    talks = group("s000000-g0000")
    dispatch.send([talks], dispatch._request([talks]))
    told = dispatch.join.diagnosis([talks])
    assert "no sampler of this run is alive" in told
    assert "no verifier with environments of this run is alive" in told


def test_limits_go_with_requests_that_have_conversations_alone(dispatch: Dispatch) -> None:
    assert turn_limits(dispatch.config, [group("g", "")]) is None
    limits = turn_limits(dispatch.config, [group("g"), group("h", "")])
    assert limits is not None
    assert (limits.max_turns, limits.max_tokens, limits.max_observation_tokens) == (3, 4096, 1024)
    assert not dispatch._request([group("g", "")]).HasField("turns")


def test_turns_are_let_go_with_their_step(dispatch: Dispatch, streams: Streams) -> None:
    talks, plain = group("s000000-g0000"), group("s000000-g0001", "")
    for item in [*talks.entries, *plain.entries]:
        for turn in range(3):
            streams.blobs.put(TURN, turn_key(item, turn), b"x")
            streams.blobs.put(OBSERVATION, turn_key(item, turn), b"x")
    forget_turns(streams.blobs, [talks, plain], 3)
    for stage in (TURN, OBSERVATION):
        keys = [turn_key(item, turn) for item in talks.entries for turn in range(3)]
        assert not any(streams.blobs.present(stage, keys))


def test_earlier_lives_jobs_are_dropped(dispatch: Dispatch, streams: Streams) -> None:
    streams.add(ENVIRONMENT, b"of an earlier life")
    dispatch.claim.take()
    try:
        assert streams.depth(ENVIRONMENT)["backlog"] == 0
    finally:
        dispatch.claim.release()


def rollout(own: list[int] | None, length: int, reason: Any) -> rollout_pb2.Rollout:
    made = rollout_pb2.Rollout(response_ids=wire.to_tensor(np.zeros(length, np.int32)), finish_reason=reason)
    if own is not None:
        made.own.CopyFrom(wire.to_tensor(np.array(own, np.int32)))
        made.check.kind = "exact"
    return made


def test_a_steps_row_counts_own_tokens_and_turns() -> None:
    tally = Tally()
    tally.note(rollout([1, 1, 0, 1, 0, 0, 1], 7, rollout_pb2.FINISH_TURNS))
    tally.note(rollout([1, 1, 1], 3, rollout_pb2.FINISH_STOP))
    tally.note(rollout(None, 5, rollout_pb2.FINISH_LENGTH))
    row = tally.metrics()
    assert row["response_length_mean"] == (4 + 3 + 5) / 3
    assert (row["turns_mean"], row["observation_tokens_mean"], row["out_of_turns_fraction"]) == (2.0, 1.5, 0.5)
    plain = Tally()
    plain.note(rollout(None, 5, rollout_pb2.FINISH_STOP))
    assert "turns_mean" not in plain.metrics()
