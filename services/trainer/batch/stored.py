"""What the stages stored of a rollout, read back by its id."""

from __future__ import annotations

from rgopd.common import wire
from rgopd.common.errors import RgopdError
from rgopd.common.streams import ROLLOUT, TEACHER_SCORE, VERDICT, Streams
from rgopd.protos import rollout_pb2, teacher_pb2, verifier_pb2


class Vanished(RgopdError):
    """A result that was there is gone: Redis lost it, or it expired. It can be made again."""

    kind = "vanished"


def read_rollouts(streams: Streams, ids: list[str]) -> list[rollout_pb2.Rollout | None]:
    """The stored rollouts, None where there is none; InvalidInput for one of a newer schema."""
    rollouts = [b and wire.parse(rollout_pb2.Rollout, b) or None for b in streams.blobs.get_many(ROLLOUT, ids)]
    for rollout in rollouts:
        if rollout is not None:
            wire.check_schema(rollout.header)
    return rollouts


def read_verdicts(streams: Streams, ids: list[str]) -> list[verifier_pb2.Verdict | None]:
    """The stored verdicts, None where there is none."""
    return [b and wire.parse(verifier_pb2.Verdict, b) or None for b in streams.blobs.get_many(VERDICT, ids)]


def read_scores(streams: Streams, ids: list[str]) -> list[teacher_pb2.TeacherScore | None]:
    """The stored teacher scores, None where there is none."""
    return [b and wire.parse(teacher_pb2.TeacherScore, b) or None for b in streams.blobs.get_many(TEACHER_SCORE, ids)]
