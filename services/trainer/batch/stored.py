"""What the stages stored of a rollout, read back by its id."""

from __future__ import annotations

from collections.abc import Container

from rgopd.common import wire
from rgopd.common.errors import RgopdError
from rgopd.common.streams import ROLLOUT, TEACHER_SCORE, VERDICT, Streams
from rgopd.protos import rollout_pb2, teacher_pb2, verifier_pb2


class Vanished(RgopdError):
    """A result that was there is gone: its store lost it, or it expired. It can be made again."""

    kind = "vanished"


def read_rollouts(streams: Streams, ids: list[str], without: Container[str] = ()) -> list[rollout_pb2.Rollout | None]:
    """The stored rollouts, None where there is none; InvalidInput for one of a newer schema.

    without: those that nobody said are there: a store that lags is not waited for on their account.
    """
    rollouts = [b and wire.parse(rollout_pb2.Rollout, b) or None for b in _read(streams, ROLLOUT, ids, without)]
    for rollout in rollouts:
        if rollout is not None:
            wire.check_schema(rollout.header)
    return rollouts


def read_verdicts(streams: Streams, ids: list[str], without: Container[str] = ()) -> list[verifier_pb2.Verdict | None]:
    """The stored verdicts, None where there is none."""
    return [b and wire.parse(verifier_pb2.Verdict, b) or None for b in _read(streams, VERDICT, ids, without)]


def read_scores(streams: Streams, ids: list[str]) -> list[teacher_pb2.TeacherScore | None]:
    """The stored teacher scores, None where there is none."""
    return [b and wire.parse(teacher_pb2.TeacherScore, b) or None for b in _read(streams, TEACHER_SCORE, ids, ())]


def why_vanished(streams: Streams) -> str:
    """Where to look when results keep vanishing."""
    if streams.blobs.where == "Redis":
        return "look at its memory, its eviction policy (noeviction is needed) and the blobs' expiry"
    return "look whether every machine sees the same store (`rgopd doctor`), and whether anything else deletes there"


def _read(streams: Streams, stage: str, ids: list[str], without: Container[str]) -> list[bytes | None]:
    announced = [item for item in ids if item not in without]
    found = dict(zip(announced, streams.blobs.get_many(stage, announced, announced=True), strict=True))
    others = [item for item in ids if item in without]
    found.update(zip(others, streams.blobs.get_many(stage, others), strict=True))
    return [found[item] for item in ids]
