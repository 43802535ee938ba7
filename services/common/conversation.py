"""A conversation's turns in the blob store, and its rollout: which tokens are the student's own, what is judged.

No tokenizer here: see `between.py` for what stands between two turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rgopd.common import wire
from rgopd.common.errors import InvalidInput
from rgopd.protos import environment_pb2, rollout_pb2, verifier_pb2

TURN, OBSERVATION = "turn", "observation"
"""Blob stages: `Turn` and `Observation` messages under `turn_key`."""

KIND = "environment"
"""Kind of check of tasks that their environment alone judges."""


def turn_key(rollout_id: str, turn: int) -> str:
    """Under which a turn of a rollout (from 0), and the answer to it, are stored."""
    return f"{rollout_id}.{turn}"


def turn_keys(rollout_ids: Iterable[str], max_turns: int) -> list[str]:
    """All of them that there may be."""
    return [turn_key(item, turn) for item in rollout_ids for turn in range(max_turns)]


def own_tokens(rollout: rollout_pb2.Rollout) -> NDArray[np.bool_] | None:
    """bool[T], True where the student sampled the response token; None: everywhere.

    Raises:
        InvalidInput: it does not fit the response, or nothing is the student's.
    """
    if not rollout.HasField("own"):
        return None
    name = f"{rollout.header.rollout_id}.own"
    own_T = wire.from_tensor(rollout.own, name, dtype="int32", ndim=1)
    if len(own_T) != rollout.response_ids.shape[0] or not np.isin(own_T, (0, 1)).all() or not own_T.any():
        raise InvalidInput(f"{name}: must say 0 or 1 of each of {rollout.response_ids.shape[0]} response tokens")
    return own_T.astype(bool)


def own_length(rollout: rollout_pb2.Rollout) -> int:
    """Tokens that the student sampled: what every count of response tokens counts."""
    own_T = own_tokens(rollout)
    return int(rollout.response_ids.shape[0]) if own_T is None else int(own_T.sum())


def check_of(check: verifier_pb2.Check, rollout: rollout_pb2.Rollout) -> verifier_pb2.Check:
    """What the verifier is asked about a rollout. `check`: the prompt's."""
    asked = verifier_pb2.Check()
    if rollout.HasField("check"):
        asked.CopyFrom(rollout.check)
        return asked
    asked.CopyFrom(check)
    asked.response = rollout.response_text
    return asked


def judged(
    prompt: rollout_pb2.Prompt,
    turns: Sequence[rollout_pb2.Turn],
    observations: Sequence[environment_pb2.Observation],
) -> verifier_pb2.Check:
    """The check of a whole conversation: an `error` where its environment broke, its reward where that is the judge."""
    broken = next((o.error for o in observations if o.error), "")
    if not broken and prompt.check.kind == KIND and _ended_unjudged(observations):
        broken = (
            "it ended the conversation and never gave a reward: let it give one, or give the row a kind to be judged by"
        )
    if broken or prompt.check.kind == KIND:
        rewards = [o.reward for o in observations if o.HasField("reward")]
        outcome = {
            "status": "error" if broken else "ended",
            "reward": rewards[-1] if rewards and not broken else None,
            "reason": broken,
        }
        return verifier_pb2.Check(kind=KIND, response=turns[-1].text, spec_json=json.dumps({"outcome": outcome}))
    check = verifier_pb2.Check()
    check.CopyFrom(prompt.check)
    whole = prompt.environment.judge == "conversation"
    check.response = transcript(turns, observations) if whole else turns[-1].text
    return check


def _ended_unjudged(observations: Sequence[environment_pb2.Observation]) -> bool:
    """Its environment had its say, and told nothing about it. One that was cut off before has not."""
    return bool(observations) and observations[-1].done and not any(o.HasField("reward") for o in observations)


def transcript(turns: Sequence[rollout_pb2.Turn], observations: Sequence[environment_pb2.Observation]) -> str:
    """All that was said, in order, a line break between two speakers."""
    said = [turns[0].text]
    for observation, turn in zip(observations, turns[1:], strict=False):
        said += [observation.text, turn.text]
    return "\n".join(said)
