"""A blob store that is another on another machine: told at the first results, not asked for again for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from rgopd.common.deliveries import Outcome
from rgopd.common.errors import ConfigError, RolloutGone, Unavailable
from rgopd.common.file_store import FileStore
from rgopd.common.stage import stage_done, stage_failed
from rgopd.common.stores import StoredBlobs
from rgopd.common.streams import GENERATE, ROLLOUT, SCORE, TEACHER_SCORE, VERDICT, VERIFY, Streams
from rgopd.protos import common_pb2, rollout_pb2
from rgopd.trainer.rollouts.join import MAX_LOST, Group, Join

BLOBS = {GENERATE: ROLLOUT, VERIFY: VERDICT, SCORE: TEACHER_SCORE}


class Machines:
    """The trainer's machine, and a service's on which the blobs may lie elsewhere."""

    def __init__(self, redis: Redis, run_id: str, here: Path, there: Path) -> None:
        self.here, self.there = (Streams(redis, run_id, blobs=self._blobs(path, run_id)) for path in (here, there))
        self.join = Join(self.here, "trainer")
        self.group = Group("s000000-g0000", rollout_pb2.Prompt(), 12, 0, 0, {GENERATE, VERIFY, SCORE})
        self.join.expect(self.group)

    @staticmethod
    def _blobs(folder: Path, run_id: str) -> StoredBlobs:
        folder.mkdir(exist_ok=True)
        store = FileStore(folder)
        store.lag_s = 0.05
        return StoredBlobs(store, run_id, patience_s=1.0)

    def says(self, streams: Streams, stage: str, item: str) -> None:
        header = common_pb2.Header(rollout_id=item, schema_version=1)
        done = stage_done(header, stage, self.group.group_id)
        streams.publish(Outcome({(BLOBS[stage], item): b"x"}, [done]))

    def misses(self, item: str) -> None:
        header = common_pb2.Header(rollout_id=item, schema_version=1)
        failed = stage_failed(
            header, SCORE, self.group.group_id, kind=RolloutGone.kind, reason="it is gone", attempts=1
        )
        self.here.publish(Outcome(announce=[failed]))

    def wait(self) -> None:
        list(self.join.wait([self.group], quiet_s=0.5, in_work_s=0.5, timeout_s=0.5))


@pytest.fixture
def machines(redis: Redis, run_id: str, tmp_path: Path) -> Machines:
    return Machines(redis, run_id, tmp_path / "here", tmp_path / "there")


@pytest.mark.parametrize(("stage", "service"), [(GENERATE, "sampler"), (VERIFY, "verifier"), (SCORE, "teacher")])
def test_results_that_are_stored_elsewhere(machines: Machines, stage: str, service: str) -> None:
    for item in list(machines.group.entries)[:4]:
        machines.says(machines.there, stage, item)
    with pytest.raises(ConfigError, match=f"what the {service} stores does not arrive in file://.*here.*same blob_url"):
        machines.wait()


def test_rollouts_that_a_stage_does_not_find(machines: Machines) -> None:
    for item in list(machines.group.entries)[:4]:
        machines.says(machines.here, GENERATE, item)
        machines.misses(item)
    with pytest.raises(ConfigError, match="the teacher does not find what lies in file://.*here.*same blob_url"):
        machines.wait()


def test_one_that_is_lost_after_others_arrived_is_a_fault_like_any_other(machines: Machines) -> None:
    first, *others = machines.group.entries
    machines.says(machines.here, GENERATE, first)
    for item in others[:5]:
        machines.says(machines.there, GENERATE, item)
    with pytest.raises(Unavailable, match="no stage answered"):  # what is made again is the orchestrator's to ask for
        machines.wait()


def test_a_rollout_that_is_lost_again_and_again_ends_the_wait(machines: Machines) -> None:
    item = next(iter(machines.group.entries))
    for _ in range(MAX_LOST):
        machines.misses(item)
    with pytest.raises(Unavailable, match=f"gone {MAX_LOST} times.*whether every machine sees the same store"):
        machines.wait()
