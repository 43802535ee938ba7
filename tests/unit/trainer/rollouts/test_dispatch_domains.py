"""Per-domain temperature and length: sampler, teacher and loss at each rollout's own, over a real Valkey.

The teacher is the student itself, so every wrong temperature on either side is a loss or a drift that is not 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgopd.common import wire
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import ConfigError
from rgopd.common.policies import PolicyStore
from rgopd.common.streams import GENERATE, RESULTS, VERDICT, VERIFY, Streams
from rgopd.common.worker import StreamWorker, announce_failure
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.sampler.publish import give_up
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.worker import ScoreWorker
from rgopd.trainer.batch.micro_batch import BatchOptions, MicroBatch, load_micro_batch
from rgopd.trainer.batch.plan import RolloutPlan, StepPlan
from rgopd.trainer.batch.stored import read_rollouts
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.dispatch import Dispatch
from rgopd.trainer.rollouts.join import Join
from rgopd.trainer.rollouts.orchestrator import Orchestrator
from rgopd.trainer.run.train_step import TrainStep
from tests.unit.trainer.lone import load, lone_rank

BASE, DOMAINS = (1.0, 5), {"cold": {"temperature": 0.5, "max_new_tokens": 3}, "hot": {"temperature": 1.75}}
WANTED = {"cold": (0.5, 3), "hot": (1.75, 5), "math": BASE}
PROMPTS = 6


class Loop:
    """A run's services in threads: sampler and teacher real (both the student), the verifier says by index."""

    def __init__(self, streams: Streams, folder: Path, student: Path, **train: Any) -> None:
        data = folder / "train.jsonl"
        domains = ["cold", "hot", None] * (PROMPTS // 3)
        rows = [{"id": str(n), "prompt": f"{n}+1=", "kind": "math", "reference": "1", "domain": d}
                for n, d in enumerate(domains)]  # fmt: skip
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.config = TrainConfig.from_mapping(
            {
                "student": str(student),
                "dataset": str(data),
                "objective": "reverse_kl",
                "gate": "off",
                "distillation": 4,
                "sampling": {
                    "prompts_per_step": PROMPTS, "n": 2, "temperature": BASE[0], "max_new_tokens": BASE[1],
                    "groups_per_request": 2, "domains": DOMAINS,
                },
                **train,
            }
        )  # fmt: skip
        self.streams = streams
        registry = CollectorRegistry()
        engine = SamplerWorker(
            TransformersSampler(str(student), device="cpu"), streams, policy_timeout_s=10, registry=registry
        )
        teacher = TransformersEngine.load(TeacherConfig(model=str(student), dtype="float32", device="cpu"))
        self.service = TeacherService(teacher, TeacherMetrics(registry), max_batch_tokens=512, max_queue_tokens=1 << 16)
        self.service.start()
        self.claim = Claim(folder / "run", streams, {})
        self.claim.take()
        self.join = Join(streams, "trainer")
        self.dispatch = Dispatch(
            self.config, streams, self.join, self.claim, republish=lambda: None, should_stop=lambda: False
        )
        verifier = announce_failure(verifier_pb2.VerifyJob, VERIFY)
        self.doors: list[Any] = [
            StreamWorker(streams, GENERATE, engine.submit, give_up, consumer="s", max_inflight=1),
            StreamWorker(streams, VERIFY, self._verify, verifier, consumer="v"),
            ScoreWorker(self.service, streams, consumer="t"),
        ]
        self.prompts = PromptSource(self.config.dataset, AutoTokenizer.from_pretrained(str(student)))
        self.orchestrator = Orchestrator(self.config, streams, self.prompts, 1, self.join, self.dispatch)
        PolicyStore(streams).announce(0, student)
        for door in self.doors:
            door.start()

    def _verify(self, delivery: Delivery) -> Future[Outcome]:
        job = wire.parse(verifier_pb2.VerifyJob, delivery.payload)
        passed = job.header.rollout_id.endswith("1")
        verdict = verifier_pb2.Verdict(
            id=job.header.rollout_id, status=verifier_pb2.VERDICT_PASSED if passed else verifier_pb2.VERDICT_FAILED
        )
        verdict.reward = float(passed)
        done = rollout_pb2.StageDone(header=job.header, stage=VERIFY, group_id=job.group_id)
        future: Future[Outcome] = Future()
        blobs = {(VERDICT, verdict.id): verdict.SerializeToString()}
        future.set_result(Outcome(blobs, [(RESULTS, done.SerializeToString())]))
        return future

    def step(self) -> StepPlan:
        self.orchestrator.request(0, 0)
        return self.orchestrator.collect(0)

    def domain_of(self, rollout: rollout_pb2.Rollout) -> str:
        return next(p.domain for p in self.prompts.prompts if p.prompt_id == rollout.prompt_id)

    def close(self) -> None:
        for door in self.doors:
            door.stop(1.0)
        self.service.drain(1.0)
        self.claim.release()
        self.streams.purge()


@pytest.fixture
def streams(redis: Any, run_id: str) -> Streams:
    return Streams(redis, run_id)


@pytest.fixture(params=["immediately", "after_verdict"])
def loop(request: pytest.FixtureRequest, streams: Streams, tmp_path: Path, student_folder: Path) -> Iterator[Loop]:
    loop = Loop(streams, tmp_path, student_folder, score=request.param)
    yield loop
    loop.close()


def test_each_rollout_is_sampled_scored_and_trained_at_its_domains_temperature(
    loop: Loop, student_folder: Path, tmp_path: Path
) -> None:
    plan = loop.step()
    plans = {r.rollout_id: r for micro in plan.micro_batches[0] for r in micro}
    assert len(plans) == 2 * PROMPTS
    model = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float64).eval()
    for rollout in read_rollouts(loop.streams, list(plans)):
        assert rollout is not None
        temperature, longest = WANTED[loop.domain_of(rollout)]
        assert rollout.temperature == plans[rollout.header.rollout_id].temperature == temperature
        prompt, response, behaviour = (
            wire.from_tensor(tensor, "ids") for tensor in
            (rollout.prompt_ids, rollout.response_ids, rollout.sampled_logprobs)
        )  # fmt: skip
        assert 1 <= len(response) <= longest
        with torch.no_grad():
            ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))[None]
            logits_TV = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        logprobs_T = (logits_TV / temperature).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(behaviour, logprobs_T.numpy(), atol=2e-5)
    for packing in (False, True):
        options = BatchOptions(needs_teacher=True, total_steps=1, packing=packing)
        micros = [load_micro_batch(loop.streams, micro, options, step=0) for micro in plan.micro_batches[0]]
        assert sorted(m.temperature or 0 for m in micros) == [0.5, 1.0, 1.75], "each temperature has a forward"
        metrics = train(student_folder, tmp_path / str(packing), micros, packing)
        assert metrics["behaviour_drift"] < 2e-5
        assert abs(metrics["loss"]) < 1e-5, "teacher and student are one model at one temperature"
        assert metrics["teacher_gap_positive"] == pytest.approx(0, abs=2e-5)
        assert metrics["reference"] == pytest.approx(0, abs=1e-5), "and so is the frozen reference"
        # The same micro-batches as if all were the run's: what the assertions above would look like if it leaked.
        metrics = train(student_folder, tmp_path / f"w{packing}", [without_temperature(m) for m in micros], packing)
        assert metrics["behaviour_drift"] > 0.01
        assert metrics["loss"] > 0.01


def train(folder: Path, work: Path, micros: list[MicroBatch], packing: bool) -> dict[str, float]:
    from rgopd.trainer.student.reference import Reference

    work.mkdir()
    with lone_rank(work):
        student = load(folder, packing=packing)
        optimizer = SGD(student.parameters(), lr=0.0, foreach=False)
        fixed = Reference(load(folder, packing=packing), 1.0)
        gaps = []
        for micro in micros:
            tokens = fixed.add_to(micro).tokens
            assert tokens.reference_logprobs_N is not None
            gaps.append((tokens.reference_logprobs_N - tokens.behaviour_logprobs_N).abs().mean())
        step = TrainStep(student, optimizer, LambdaLR(optimizer, lambda _: 1.0), get_objective("reverse_kl"),
                         GateConfig(enabled=False), 1.0, 1e9)  # fmt: skip
        return {**step.run(micros), "reference": float(torch.stack(gaps).max())}


def without_temperature(micro: MicroBatch) -> MicroBatch:
    return dataclasses.replace(micro, temperature=None)


def test_an_evaluations_answers_are_as_long_as_their_domain_allows(
    streams: Streams, tmp_path: Path, student_folder: Path
) -> None:
    loop = Loop(streams, tmp_path, student_folder)
    asked: list[rollout_pb2.GenerateRequest] = []
    send = loop.dispatch.send
    loop.dispatch.send = lambda batch, request: (asked.append(request), send(batch, request))[1]  # type: ignore[method-assign]
    try:
        row = loop.orchestrator.evaluate(loop.prompts, 0)
    finally:
        loop.close()
    assert row["problems"] == PROMPTS
    lengths = {g.prompt.domain: r.sampling.max_new_tokens for r in asked for g in r.groups}
    assert lengths == {"cold": 3, "hot": 5, "math": 5}


def test_a_domain_that_no_prompt_is_of_is_named(streams: Streams) -> None:
    config = TrainConfig.from_mapping({"student": "s", "dataset": "d", "sampling": {"domains": {"codee": 0.5}}})
    with pytest.raises(ConfigError, match=r"no prompt is of the domain 'codee'; did you mean 'code'\?; the data has"):
        config.sampling.check_domains({"code", "math"})
    assert (config.sampling.temperature_of("codee"), config.sampling.length_of("codee")) == (0.5, 1024)


def test_a_micro_batch_of_two_temperatures_is_refused() -> None:
    from rgopd.trainer.batch.micro_batch import assemble
    from tests.unit.trainer.ranks import make_part

    parts = [make_part(i, 40, 6) for i in range(2)]
    plans = [RolloutPlan(f"r{i}", len(p.prompt_ids_C), len(p.response_ids_T), 1.0, 1.0, 0, "", at)
             for i, (p, at) in enumerate(zip(parts, (0.5, 1.0), strict=True))]  # fmt: skip
    with pytest.raises(ValueError, match=r"temperatures \[0.5, 1.0\]"):
        assemble(parts, plans, step=0, total_steps=1)
