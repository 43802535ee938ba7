"""The orchestrator against stages that fail, forget, hang, repeat themselves and lie. Real Valkey, real sampler."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis import Redis
from transformers import AutoTokenizer

from rgopd.common import wire
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import InvalidInput, RolloutGone
from rgopd.common.policies import PolicyStore
from rgopd.common.streams import GENERATE, RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, VERDICT, VERIFY, Streams
from rgopd.common.worker import StreamWorker, announce_failure
from rgopd.protos import rollout_pb2, teacher_pb2, verifier_pb2
from rgopd.sampler.publish import give_up
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker
from rgopd.trainer.batch.micro_batch import BatchOptions, load_micro_batch
from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.batch.stored import Vanished
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.rollouts.claim import Claim, TakenOver
from rgopd.trainer.rollouts.dispatch import Dispatch, Interrupted
from rgopd.trainer.rollouts.join import Join
from rgopd.trainer.rollouts.orchestrator import BrokenStage, Orchestrator

Verdicts = Callable[[str], int]
PASSED, FAILED, ERROR = verifier_pb2.VERDICT_PASSED, verifier_pb2.VERDICT_FAILED, verifier_pb2.VERDICT_ERROR


def by_index(item: str) -> int:
    return PASSED if int(item[-1]) % 2 else FAILED


@pytest.fixture(scope="module")
def sampler(request: pytest.FixtureRequest) -> TransformersSampler:
    return TransformersSampler(str(request.getfixturevalue("student_folder")), device="cpu")


class Stages:
    """The three services of a run in threads: the sampler real, verifier and teacher scripted."""

    def __init__(self, streams: Streams, sampler: TransformersSampler) -> None:
        self.streams = streams
        self.verdict: Verdicts = by_index
        self.score: Callable[[rollout_pb2.Rollout], teacher_pb2.TeacherScore] = honest_score
        registry = CollectorRegistry()
        engine = SamplerWorker(sampler, streams, policy_timeout_s=10, registry=registry)
        teacher = announce_failure(teacher_pb2.ScoreJob, SCORE)
        verifier = announce_failure(verifier_pb2.VerifyJob, VERIFY)
        self.doors = {
            GENERATE: StreamWorker(streams, GENERATE, engine.submit, give_up, consumer="s", max_inflight=1),
            VERIFY: StreamWorker(streams, VERIFY, self._verify, verifier, consumer="v"),
            SCORE: StreamWorker(streams, SCORE, self._score, teacher, consumer="t"),
            "score_math": StreamWorker(streams, "score_math", self._score, teacher, consumer="m"),
        }
        self.scored: list[tuple[str, str]] = []

    def start(self, *names: str) -> None:
        for name in names or (GENERATE, VERIFY, SCORE):
            self.doors[name].start()

    def stop(self) -> None:
        for door in self.doors.values():
            door.stop(0.2)

    def _verify(self, delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(verifier_pb2.VerifyJob, delivery.payload)
        item = job.header.rollout_id
        status = self.verdict(item)
        verdict = verifier_pb2.Verdict(id=item, status=status, reason="the sandbox is gone" if status == ERROR else "")
        if status != ERROR:
            verdict.reward = float(status == PASSED)
        done = rollout_pb2.StageDone(header=job.header, stage=VERIFY, group_id=job.group_id)
        return _now(Outcome({(VERDICT, item): verdict.SerializeToString()}, [(RESULTS, done.SerializeToString())]))

    def _score(self, delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(teacher_pb2.ScoreJob, delivery.payload)
        item = job.header.rollout_id
        data = self.streams.blobs.get(ROLLOUT, item)
        if data is None:
            raise RolloutGone(f"rollout {item} is not there")
        self.scored.append((delivery.stream, job.teacher))
        score = self.score(wire.parse(rollout_pb2.Rollout, data))
        done = rollout_pb2.StageDone(header=job.header, stage=SCORE, group_id=job.group_id)
        return _now(Outcome({(TEACHER_SCORE, item): score.SerializeToString()}, [(RESULTS, done.SerializeToString())]))


def _now(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def honest_score(rollout: rollout_pb2.Rollout, sampled: float = -1.0) -> teacher_pb2.TeacherScore:
    tokens, k = rollout.support_ids.shape
    return teacher_pb2.TeacherScore(
        id=rollout.header.rollout_id,
        sampled_logprobs=wire.to_tensor(np.full(tokens, sampled, np.float32)),
        topk_logprobs=wire.to_tensor(np.full((tokens, k), -2.0, np.float32)),
        tail_logprob=wire.to_tensor(np.full(tokens, -3.0, np.float32)),
    )


class Run:
    """An orchestrator with its stages."""

    def __init__(self, streams: Streams, sampler: TransformersSampler, folder: Path, student: Path) -> None:
        data = folder / "train.jsonl"
        data.write_text(
            "\n".join(json.dumps({"prompt": f"{i}+{i}=", "kind": "math", "reference": "1"}) for i in range(9))
        )
        self.config = TrainConfig.from_mapping(
            {
                "student": str(student),
                "dataset": {"path": str(data)},
                "sampling": {"prompts_per_step": 2, "n": 3, "max_new_tokens": 6, "groups_per_request": 1},
                "distillation": {"k": 4},
                "fault": {"wait_for_services_s": 20, "max_redraws": 1, "redispatch_s": 0.6},
            }
        )
        self.streams = streams
        self.republished = 0
        self.stop_asked = False
        self.claim = Claim(folder / "run", streams, self.config.model_dump(mode="json"))
        self.claim.take()
        self.republish()
        self.stages = Stages(streams, sampler)
        self.join = Join(streams, "trainer")
        self.dispatch = Dispatch(
            self.config,
            streams,
            self.join,
            self.claim,
            republish=self.republish,
            should_stop=lambda: self.stop_asked,
        )
        prompts = PromptSource(self.config.dataset, AutoTokenizer.from_pretrained(str(student)))
        self.orchestrator = Orchestrator(self.config, streams, prompts, 1, self.join, self.dispatch)

    def republish(self) -> None:
        self.republished += 1
        PolicyStore(self.streams).announce(0, Path(self.config.student))

    def be_patient(self) -> None:
        """Where nothing is disturbed, a slow machine is no straggler."""
        fault = self.config.fault.model_copy(update={"redispatch_s": 60.0})
        self.dispatch.patience = replace(self.dispatch.patience, fault=fault)

    def step(self) -> StepPlan:
        self.orchestrator.request(0, 0)
        return self.orchestrator.collect(0)


@pytest.fixture
def run(
    redis: Redis, run_id: str, sampler: TransformersSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    monkeypatch.setattr("rgopd.trainer.rollouts.dispatch.TEND_S", 0.15)
    request_folder = Path(sampler.model.config._name_or_path)
    run = Run(Streams(redis, run_id, lease_ms=400), sampler, tmp_path, request_folder)
    yield run
    run.stages.stop()
    run.claim.release()
    run.streams.purge()


def used(plan: StepPlan) -> dict[str, tuple[str, float, float]]:
    """What the ledger would say."""
    rollouts = [r for rank in plan.micro_batches for micro in rank for r in micro]
    assert len({r.rollout_id for r in rollouts}) == len(rollouts), "a rollout is used twice"
    return {r.rollout_id: (r.digest, r.reward, r.advantage) for r in rollouts}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return {}


def the_same_as_undisturbed(run: Run, plan: StepPlan, undisturbed: dict[str, Any]) -> None:
    """Compare with a clean run under another run id: names and seeds do not hold the run id."""
    if not undisturbed:
        streams = Streams(run.streams.redis, f"{run.streams.run_id}-clean", lease_ms=400)
        folder = run.claim.folder.parent / "clean"
        folder.mkdir()
        clean = Run(streams, run.stages.doors[GENERATE].submit.__self__.engine, folder, Path(run.config.student))
        clean.stages.start()
        undisturbed.update(used(clean.step()))
        clean.stages.stop()
        clean.claim.release()
        streams.purge()
    assert used(plan) == undisturbed


def test_undisturbed(run: Run, undisturbed: dict[str, Any]) -> None:
    run.be_patient()
    run.stages.start()
    plan = run.step()
    assert len(used(plan)) == 6
    the_same_as_undisturbed(run, plan, undisturbed)
    assert run.dispatch.asked_again == 0


def test_a_verifier_that_always_errs_stops_the_run_and_says_why(run: Run) -> None:
    run.stages.verdict = lambda _: ERROR
    run.stages.start()
    with pytest.raises(
        BrokenStage, match=r"100% of .* rollouts ended in errors.*Nothing was trained.*the sandbox is gone"
    ):
        run.step()


def test_a_group_goes_on_with_two_judged_rollouts(run: Run) -> None:
    run.stages.verdict = lambda item: ERROR if item.endswith("n002") else by_index(item)
    run.stages.start()
    plan = run.step()
    assert sorted(used(plan)) == [f"s000000-g000{g}-n00{i}" for g in (0, 1) for i in (0, 1)]
    assert plan.metrics["verdicts"]["error"] == 2
    assert plan.metrics["redrawn_groups"] == 0
    assert {reward for _, reward, _ in used(plan).values()} == {0.0, 1.0}


def test_a_group_with_one_judged_rollout_is_drawn_again(run: Run) -> None:
    hit = ("s000000-g0001-n000", "s000000-g0001-n001")
    run.stages.verdict = lambda item: ERROR if item in hit else by_index(item)
    run.stages.start()
    plan = run.step()
    ids = set(used(plan))
    assert {f"s000000-g0001-r1-n00{i}" for i in range(3)} <= ids
    assert not any(item.startswith("s000000-g0001-n") for item in ids)
    assert plan.metrics["redrawn_groups"] == 1
    assert used(run.orchestrator.collect(0)) == used(plan)  # collected again: the same, nothing twice


def test_a_lost_request_and_lost_jobs_are_asked_for_again(run: Run, undisturbed: dict[str, Any]) -> None:
    run.orchestrator.request(0, 0)
    run.streams.reset(GENERATE)
    run.stages.start(GENERATE)
    collected: list[StepPlan] = []
    waiting = threading.Thread(target=lambda: collected.append(run.orchestrator.collect(0)))
    waiting.start()
    deadline = time.monotonic() + 120
    while len(run.streams.redis.keys(run.streams.blobs.key(ROLLOUT, "*"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    run.streams.reset(VERIFY)
    run.streams.reset(SCORE)
    run.stages.start(VERIFY, SCORE)
    waiting.join(200)
    the_same_as_undisturbed(run, collected[0], undisturbed)
    assert run.dispatch.asked_again >= 6


@pytest.mark.parametrize("when", ["asked", "made"])
def test_an_emptied_redis_is_filled_again(run: Run, undisturbed: dict[str, Any], when: str) -> None:
    run.orchestrator.request(0, 0)
    if when == "made":
        run.stages.start()
        assert len(used(run.orchestrator.collect(0))) == 6
    run.streams.purge()  # all of it: streams, blobs, policy, the token
    if when == "asked":
        run.stages.start()
    plan = run.orchestrator.collect(0)
    the_same_as_undisturbed(run, plan, undisturbed)
    assert run.republished == 2


def test_redis_comes_back_empty_when_one_group_is_complete_and_another_is_not(
    run: Run, undisturbed: dict[str, Any]
) -> None:
    held = threading.Event()

    def verdict(item: str) -> int:
        if item == "s000000-g0001-n002":
            held.wait(120)
        return by_index(item)

    run.stages.verdict = verdict
    run.stages.start()
    run.orchestrator.request(0, 0)
    first = run.join.groups["s000000-g0000"]

    def empty_redis() -> None:
        while not first.complete:
            time.sleep(0.01)
        run.streams.purge()
        while not run.republished > 1:
            time.sleep(0.01)
        held.set()

    emptying = threading.Thread(target=empty_redis)
    emptying.start()
    plan = run.orchestrator.collect(0)
    emptying.join()
    the_same_as_undisturbed(run, plan, undisturbed)
    assert plan.metrics["redrawn_groups"] == 0
    assert plan.metrics["stage_failures"] == {}


def test_a_rollout_that_is_lost_before_it_is_scored_is_made_again(run: Run, undisturbed: dict[str, Any]) -> None:
    lost: list[str] = []
    honest = run.stages.score

    def lose_one(rollout: rollout_pb2.Rollout) -> teacher_pb2.TeacherScore:
        if not lost:
            lost.append(rollout.header.rollout_id)
            run.streams.blobs.delete(ROLLOUT, lost)
            raise RolloutGone("lost between the job and the read")
        return honest(rollout)

    run.stages.score = lose_one
    run.stages.start()
    plan = run.step()
    assert lost
    the_same_as_undisturbed(run, plan, undisturbed)
    assert plan.metrics["unscored_rollouts"] == 0


def test_a_straggler_is_overtaken_and_its_late_twin_ignored(run: Run, undisturbed: dict[str, Any]) -> None:
    run.orchestrator.request(0, 0)
    run.streams.ensure(VERIFY)
    run.stages.start(GENERATE, SCORE)
    slow: list[Delivery] = []
    while not slow:
        slow = run.streams.read(VERIFY, "slow", count=1, block_ms=100)
    alive = threading.Event()

    def keep_renewing() -> None:  # slow, not dead
        while not alive.wait(0.1):
            run.streams.renew(VERIFY, "slow", [slow[0].id])

    renewing = threading.Thread(target=keep_renewing)
    renewing.start()
    run.stages.start(VERIFY)
    plan = run.orchestrator.collect(0)
    alive.set()
    renewing.join()
    the_same_as_undisturbed(run, plan, undisturbed)
    assert run.dispatch.asked_again == 1
    item = wire.parse(verifier_pb2.VerifyJob, slow[0].payload).header.rollout_id
    lie = verifier_pb2.Verdict(id=item, status=PASSED, reward=0.123)
    header = wire.header(run.streams.run_id, item)
    late = rollout_pb2.StageDone(header=header, stage=VERIFY, group_id="s000000-g0000")
    outcome = Outcome({(VERDICT, item): lie.SerializeToString()}, [(RESULTS, late.SerializeToString())])
    run.streams.publish(outcome)
    assert used(run.orchestrator.collect(0)) == used(plan)  # the first result stands
    run.orchestrator.release(0)
    run.streams.complete(slow[0], outcome)  # once more, when its step is over
    run.orchestrator.request(1, 0)
    run.orchestrator.collect(1)
    assert run.streams.blobs.get(VERDICT, item) is None, "a late twin's blob stays behind"


def test_duplicated_and_reordered_deliveries_change_nothing(run: Run, undisturbed: dict[str, Any]) -> None:
    run.orchestrator.request(0, 0)
    for _, fields in reversed(run.streams.redis.xrange(run.streams.key(GENERATE))):
        run.streams.add(GENERATE, fields[b"d"])
        run.streams.add(GENERATE, fields[b"d"])
    run.streams.add(RESULTS, b"\xff not a message")
    run.stages.start()
    the_same_as_undisturbed(run, run.orchestrator.collect(0), undisturbed)


def test_a_rollout_that_vanishes_after_the_plan_is_made_again(run: Run) -> None:
    run.stages.start()
    plan = run.step()
    item = min(used(plan))
    options = BatchOptions(needs_teacher=True, total_steps=1)
    run.streams.blobs.delete(ROLLOUT, [item])
    with pytest.raises(Vanished, match=item):
        load_micro_batch(run.streams, plan.micro_batches[0][0], options, step=0)
    run.orchestrator.recheck(0)
    again = run.orchestrator.collect(0)
    assert used(again) == used(plan)
    assert not load_micro_batch(run.streams, again.micro_batches[0][0], options, step=0).empty


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.5])
def test_a_teacher_that_answers_nonsense_stops_the_step(run: Run, bad: float) -> None:
    run.stages.score = lambda rollout: honest_score(rollout, bad)
    run.stages.start()
    plan = run.step()
    with pytest.raises(InvalidInput, match="is no log-prob; nothing was trained"):
        load_micro_batch(run.streams, plan.micro_batches[0][0], BatchOptions(needs_teacher=True, total_steps=1), step=0)


def test_a_teacher_of_another_vocabulary_stops_the_run(run: Run) -> None:
    def refuse(_: rollout_pb2.Rollout) -> teacher_pb2.TeacherScore:
        raise InvalidInput("response_ids holds 101, outside the vocabulary of 50 ids")

    run.stages.score = refuse
    run.stages.start()
    with pytest.raises(BrokenStage, match="outside the vocabulary of 50 ids"):
        run.step()


@pytest.mark.parametrize("score", ["immediately", "after_verdict"])
def test_each_prompt_is_scored_by_the_teacher_it_names(run: Run, score: str, undisturbed: dict[str, Any]) -> None:
    first, second = (run.orchestrator.prompts.at(run.config.seed, position) for position in range(2))
    first.teacher = "math"
    object.__setattr__(run.orchestrator.config, "score", score)
    run.be_patient()
    run.stages.start(GENERATE, VERIFY, SCORE, "score_math")
    plan = run.step()
    the_same_as_undisturbed(run, plan, undisturbed)
    assert Counter(run.stages.scored) == {("score_math", "math"): 3, (SCORE, ""): 3}
    assert not run.dispatch.asked_again


@pytest.mark.parametrize("disturbance", ["lost", "late"])
def test_a_named_teachers_jobs_are_asked_for_again_on_its_own_stream(
    run: Run, disturbance: str, undisturbed: dict[str, Any]
) -> None:
    for prompt in run.orchestrator.prompts.prompts:
        prompt.teacher = "math"
    # The default teacher's stream is never empty here: it must not count.
    run.streams.add(SCORE, b"a message that nobody reads")
    run.stages.start(GENERATE, VERIFY)
    run.orchestrator.request(0, 0)
    deadline = time.monotonic() + 120
    while run.streams.depth("score_math")["backlog"] < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    if disturbance == "lost":
        run.streams.reset("score_math")
    else:
        leased = run.streams.read("score_math", "slow", count=6)
        alive = threading.Event()

        def keep_renewing() -> None:
            while not alive.wait(0.1):
                run.streams.renew("score_math", "slow", [d.id for d in leased])

        renewing = threading.Thread(target=keep_renewing)
        renewing.start()
    run.stages.start("score_math")
    plan = run.orchestrator.collect(0)
    if disturbance == "late":
        alive.set()
        renewing.join()
    the_same_as_undisturbed(run, plan, undisturbed)
    assert set(run.stages.scored) == {("score_math", "math")}
    assert run.dispatch.asked_again >= 6
    assert run.streams.depth(SCORE)["backlog"] == 1


def test_the_wait_names_the_missing_teacher(run: Run) -> None:
    run.orchestrator.prompts.at(run.config.seed, 0).teacher = "math"
    run.stages.start(GENERATE, VERIFY, SCORE)
    run.orchestrator.request(0, 0)
    waiting = run.orchestrator.requested[0]
    while any(group.open(VERIFY) or (group.open(SCORE) and not group.prompt.teacher) for group in waiting):
        run.join.sweep(waiting)
        time.sleep(0.02)
    said = run.join.diagnosis(waiting)
    assert "3 rollouts miss stage 'score' (3 messages wait, 0 of them leased; no teacher of this run is alive" in said
    assert said.endswith("start one with teacher_name=math)")
    assert said.count("miss stage") == 1


def test_asked_to_stop_while_waiting(run: Run) -> None:
    run.orchestrator.request(0, 0)
    timer = threading.Timer(0.3, lambda: setattr(run, "stop_asked", True))
    timer.start()
    with pytest.raises(Interrupted):
        run.orchestrator.collect(0)


def test_a_run_id_that_another_trainer_took_stops_the_first(run: Run, tmp_path: Path) -> None:
    run.orchestrator.request(0, 0)
    other = Claim(tmp_path / "other", run.streams, {})
    other.take()
    with pytest.raises(TakenOver, match="another trainer has taken over"):
        run.orchestrator.collect(0)
    other.release()


def test_the_wait_names_the_missing_service(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgopd.trainer.rollouts.dispatch.TELL_S", 0.3)
    monkeypatch.setattr("rgopd.trainer.rollouts.join.ALIVE_MS", 400)
    run.stages.start(GENERATE, SCORE)
    run.orchestrator.request(0, 0)
    timer = threading.Timer(1.5, lambda: setattr(run, "stop_asked", True))
    timer.start()
    with pytest.raises(Interrupted):
        run.orchestrator.collect(0)
    assert "6 rollouts miss stage 'verify'" in caplog.text
    assert "no verifier of this run is alive: start one" in caplog.text


@pytest.mark.parametrize(("step", "used_rollouts", "unscored"), [(0, 6, 0), (4, 6, 0), (5, 0, 6)])
def test_scoring_after_the_verdict_waits_for_the_gate_to_warm_up(
    run: Run, step: int, used_rollouts: int, unscored: int
) -> None:
    """All groups agree, so the released gate drops them; while it warms up it keeps everything."""
    run.stages.verdict = lambda _: PASSED
    run.stages.start()
    changes = {"gate": {"preset": "released", "warmup_steps": 5}, "score": "after_verdict"}
    config = TrainConfig.from_mapping(run.config.model_dump(mode="json") | changes)
    late = Orchestrator(config, run.streams, run.orchestrator.prompts, 1, run.join, run.dispatch)
    late.request(step, 0)
    plan = late.collect(step)
    assert (len(used(plan)), plan.metrics["unscored_rollouts"]) == (used_rollouts, unscored)
