from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rgopd.common import wire
from rgopd.common.deliveries import Outcome
from rgopd.common.errors import Unavailable
from rgopd.common.policies import PolicyStore
from rgopd.common.streams import GENERATE, RESULTS, VERDICT, VERIFY, Streams
from rgopd.common.worker import StreamWorker
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.sampler.publish import give_up
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker
from rgopd.trainer.config import EvalConfig, TrainConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.rollouts.claim import Claim
from rgopd.trainer.rollouts.dispatch import Dispatch
from rgopd.trainer.rollouts.evaluation import BestTracker, Evaluator, accuracy, keep_best, pass_at_k, sampled_accuracy
from rgopd.trainer.rollouts.join import Join


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_pass(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


@pytest.mark.parametrize("case", [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_what_makes_no_sense(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= passed <= samples"):
        pass_at_k(*case)


def test_errors_are_neither_right_nor_wrong() -> None:
    outcomes: list[tuple[str, list[bool | None]]] = [("a", [True]), ("a", [None]), ("b", [False]), ("c", [None])]
    row = accuracy(outcomes)
    assert row["accuracy"] == 0.5
    assert row["problems"] == 2
    assert row["errors"] == 2
    assert row["by_domain"] == {"a": {"accuracy": 1.0, "problems": 1}, "b": {"accuracy": 0.0, "problems": 1}}


def test_a_problem_with_too_few_judged_samples_is_left_out_of_that_mean() -> None:
    row = sampled_accuracy([("a", [True, False, None]), ("a", [False, False, True])], [1, 2, 3])
    assert row["pass_at"] == {"1": pytest.approx((0.5 + 1 / 3) / 2), "2": pytest.approx((1 + 2 / 3) / 2), "3": 1.0}
    assert row["pass_at_short"] == {"1": 0, "2": 0, "3": 1}
    assert row["sample_errors"] == 1


def rows(*values: float) -> list[dict[str, Any]]:
    return [{"step": 10 * i, "accuracy": v, "problems": 5} for i, v in enumerate(values)]


def test_the_best_is_the_first_of_equals_and_patience_counts_from_it() -> None:
    tracker = BestTracker(EvalConfig(every=1, patience=2))
    seen = [(tracker.update(row), tracker.exhausted) for row in rows(0.1, 0.3, 0.3, 0.2)]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (tracker.best, tracker.best_step) == (0.3, 10)


def test_a_tracker_made_from_rows_is_the_one_that_saw_them() -> None:
    config = EvalConfig(every=1, patience=3, min_delta=0.05)
    whole = BestTracker(config, rows(0.1, 0.12, 0.2, 0.1))
    assert (whole.best, whole.best_step, whole.since) == (0.2, 20, 1)
    assert not BestTracker(config).update({"step": 0, "accuracy": 0.0, "problems": 0})  # nothing could be judged


def test_the_metric_may_be_pass_at_k() -> None:
    tracker = BestTracker(EvalConfig(samples=4, k=[2, 4], best="pass@4"))
    assert tracker.value({"accuracy": 0.9, "pass_at": {"2": 0.1, "4": 0.2}}) == 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 2, "k": [4]}, "at least as many eval.samples"),
        ({"best": "pass@4"}, "name a k of eval.k"),
        ({"samples": 4, "k": [1], "best": "pass@4"}, "name a k of eval.k"),
        ({"patience": 2}, "set eval.every"),
        ({"best": "loss"}, "should match pattern"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvalConfig(**settings)


class Judge:
    """Answers on `verify` as the verifier service does: passed where the response has an even number of characters."""

    def __init__(self, streams: Streams, status: int | None = None) -> None:
        self.streams = streams
        self.status = status
        self.responses: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        streams.ensure(VERIFY)

    def __enter__(self) -> Judge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for delivery in self.streams.read(VERIFY, "judge", count=64, block_ms=50):
                job = wire.parse(verifier_pb2.VerifyJob, delivery.payload)
                item, response = job.header.rollout_id, job.check.response
                self.responses[item] = response
                even = verifier_pb2.VERDICT_FAILED if len(response) % 2 else verifier_pb2.VERDICT_PASSED
                verdict = verifier_pb2.Verdict(id=item, status=self.status or even, reason="why")
                done = rollout_pb2.StageDone(header=job.header, stage=VERIFY, group_id=job.group_id)
                self.streams.complete(
                    delivery,
                    Outcome(
                        blobs={(VERDICT, item): verdict.SerializeToString()},
                        announce=[(RESULTS, done.SerializeToString())],
                    ),
                )


@pytest.fixture(scope="module")
def sampler(request: pytest.FixtureRequest) -> TransformersSampler:
    return TransformersSampler(str(request.getfixturevalue("student_folder")), device="cpu")


@pytest.fixture
def claim(streams: Streams, tmp_path: Path) -> Iterator[Claim]:
    claim = Claim(tmp_path / "run", streams, {})
    claim.take()
    yield claim
    claim.release()


@pytest.fixture
def serving(sampler: TransformersSampler, streams: Streams, student_folder: Path, claim: Claim) -> Iterator[Claim]:
    """A real sampler on the stream `generate`, serving policies 0 and 1 (the same weights)."""
    for version in (0, 1):
        PolicyStore(streams).announce(version, student_folder)
    worker = SamplerWorker(sampler, streams, policy_timeout_s=10, registry=CollectorRegistry())
    door = StreamWorker(streams, GENERATE, worker.submit, give_up, consumer="s", registry=CollectorRegistry())
    door.start()
    yield claim
    door.stop(5)


def config_for(folder: Path, student: Path, **settings: Any) -> TrainConfig:
    data = folder / "eval.jsonl"
    questions = ["1+1=", "2+3=", "(4+5)*2="]
    lines = [json.dumps({"prompt": q, "kind": "math", "reference": "1", "domain": q[0]}) for q in questions]
    data.write_text("\n".join(lines))
    evaluation = {"dataset": {"path": str(data)}, "samples": 3, "k": [1, 2], "temperature": 1.0, **settings}
    return TrainConfig.from_mapping(
        {
            "student": str(student),
            "dataset": {"path": str(data)},
            "eval": evaluation,
            "sampling": {"max_new_tokens": 12},
            "seed": 4,
            "fault": {"wait_for_services_s": 20},
        }
    )


def evaluate(config: TrainConfig, streams: Streams, claim: Claim, version: int) -> dict[str, Any]:
    assert config.eval.dataset is not None
    prompts = PromptSource(config.eval.dataset, AutoTokenizer.from_pretrained(config.student))
    join = Join(streams, "trainer")
    dispatch = Dispatch(config, streams, join, claim, republish=lambda: None, should_stop=lambda: False)
    return Evaluator(config, streams, join, dispatch).run(prompts, version)


def test_greedy_and_sampled_through_a_real_sampler(
    streams: Streams, serving: Claim, student_folder: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path, student_folder)
    with Judge(streams) as judge:
        first = evaluate(config, streams, serving, 0)
        responses = dict(judge.responses)
        second = evaluate(config, streams, serving, 1)
    assert first.pop("policy_version") == 0
    assert second.pop("policy_version") == 1
    assert first == second  # the same weights meet the same random numbers, whatever their version
    greedy = {i: r for i, r in responses.items() if "sampled" not in i}
    sampled = {i: r for i, r in responses.items() if "sampled" in i}
    assert (len(greedy), len(sampled)) == (3, 9)
    assert len(set(sampled.values())) > 3  # rollouts of a group differ
    assert first["accuracy"] == sum(len(r) % 2 == 0 for r in greedy.values()) / 3
    assert first["pass_at"]["1"] == pytest.approx(sum(len(r) % 2 == 0 for r in sampled.values()) / 9)
    assert first["pass_at"]["2"] >= first["pass_at"]["1"]
    assert first["response_length_mean"] > 0
    assert streams.blobs.get_many(VERDICT, list(responses)) == [None] * 12  # nothing is left behind


def test_a_verifier_that_cannot_tell_stops_the_evaluation(
    streams: Streams, serving: Claim, student_folder: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path, student_folder, samples=0)
    with (
        Judge(streams, status=verifier_pb2.VERDICT_ERROR),
        pytest.raises(Unavailable, match=r"evaluation of policy 0: 3 of 3 could not be judged: 3x why"),
    ):
        evaluate(config, streams, serving, 0)


def test_the_best_student_is_a_folder_that_loads_on_its_own(student_folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policies" / "v1"
    policy.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (policy / name).write_bytes((student_folder / name).read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old").write_text("an earlier best")
    best = keep_best(tmp_path, policy, tokenizer, GenerationConfig(eos_token_id=1), rows(0.5)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "policies"]
    assert not (best / "old").exists()
    assert json.loads((best / "best.json").read_text())["accuracy"] == 0.5
    assert AutoModelForCausalLM.from_pretrained(best).num_parameters() > 1000
    assert AutoTokenizer.from_pretrained(best)("1+1=")["input_ids"] == tokenizer("1+1=")["input_ids"]
