"""A teacher with another tokenizer behind the stream: its score, and what the trainer makes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from rgopd.common import wire
from rgopd.common.errors import InvalidInput
from rgopd.common.streams import RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, Streams
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.teacher.alignment import Aligner
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.metrics import TeacherMetrics
from rgopd.teacher.worker import ScoreWorker
from rgopd.trainer.batch.micro_batch import BatchOptions, load_micro_batch
from rgopd.trainer.batch.plan import RolloutPlan
from tests.unit.teacher.alignment.kinds import side
from tests.unit.teacher.alignment.test_aligner import ids_of, tiny_engine
from tests.waiting import eventually

TEXTS = ["def f(a): return a", "\\boxed{46}", "é"]


def scored(streams: Streams, across: int = teacher_pb2.ACROSS_MAPPED) -> list[RolloutPlan]:
    """Rollouts of `TEXTS`, through a teacher's worker."""
    aligner = Aligner(side("qwen"), side("llama"))
    service = TeacherService(
        tiny_engine(aligner.teacher.size),
        TeacherMetrics(CollectorRegistry()),
        max_batch_tokens=512,
        max_queue_tokens=4096,
        aligner=aligner,
    )
    service.start()
    streams.ensure(SCORE)
    streams.ensure(RESULTS)
    plans = []
    for n, text in enumerate(TEXTS):
        ids_T = np.array([*ids_of("qwen", text), aligner.student.end], np.int32)
        support_TK = np.stack([np.random.default_rng(t).permutation(aligner.student.size)[:4] for t in ids_T])
        rollout = rollout_pb2.Rollout(
            header=wire.header(streams.run_id, f"r{n}"),
            prompt_ids=wire.to_tensor(np.array([1, 2], np.int32)),
            response_ids=wire.to_tensor(ids_T),
            sampled_logprobs=wire.to_tensor(np.full(len(ids_T), -1, np.float32)),
            support_ids=wire.to_tensor(support_TK.astype(np.int32)),
            messages_json=json.dumps([{"role": "user", "content": "go"}]),
        )
        streams.blobs.put(ROLLOUT, f"r{n}", rollout.SerializeToString())
        job = teacher_pb2.ScoreJob(
            header=rollout.header,
            group_id="g",
            k=4,
            support=teacher_pb2.SUPPORT_STUDENT,
            temperature=1,
            across=across,
        )
        streams.add(SCORE, job.SerializeToString())
        plans.append(RolloutPlan(f"r{n}", 2, len(ids_T), 1.0, 1.0, 0))
    worker = ScoreWorker(service, streams, consumer="teacher", registry=CollectorRegistry())
    worker.start()
    eventually(lambda: all(streams.blobs.get(TEACHER_SCORE, p.rollout_id) for p in plans))
    worker.stop(5)
    service.drain(5)
    return plans


def test_scores_of_another_tokenizer_become_one_micro_batch(streams: Streams) -> None:
    plans = scored(streams)
    tokens = load_micro_batch(streams, plans, BatchOptions(True, 1, aligns=True), step=0).tokens
    assert tokens.aligned_N is not None
    start = 0
    for plan in plans:
        score = wire.parse(teacher_pb2.TeacherScore, streams.blobs.get(TEACHER_SCORE, plan.rollout_id))
        chunk_T = wire.from_tensor(score.aligned)
        first_T = tokens.aligned_N[start : start + plan.response_tokens].numpy() - start
        assert (chunk_T[first_T] == chunk_T).all()
        assert (first_T <= np.arange(plan.response_tokens)).all()
        assert (np.unique(first_T) == np.flatnonzero(np.diff(chunk_T, prepend=-1))).all()
        start += plan.response_tokens
    with pytest.raises(InvalidInput, match="r0: its teacher has another tokenizer"):
        load_micro_batch(streams, plans, BatchOptions(True, 1), step=0)


@pytest.mark.parametrize("across", ["ranked", "hybrid"])
def test_ranked_rows_lie_beside_the_students_own_support(streams: Streams, across: str) -> None:
    plans = scored(streams, {"ranked": teacher_pb2.ACROSS_RANKED, "hybrid": teacher_pb2.ACROSS_HYBRID}[across])
    tokens = load_micro_batch(streams, plans, BatchOptions(True, 1, aligns=True, across=across), step=0).tokens
    assert tokens.aligned_N is not None
    assert tokens.ranked_N is not None
    assert tokens.teacher_support_NK is not None
    assert tokens.teacher_rest_N is not None
    assert tokens.foreign_N is not None
    assert tokens.foreign_N.all()
    first_N = tokens.aligned_N == torch.arange(len(tokens.aligned_N))
    ranked_N = tokens.ranked_N
    assert not (ranked_N & ~first_N).any()
    assert ranked_N.any()
    own_NK = np.concatenate(
        [
            wire.from_tensor(wire.parse(rollout_pb2.Rollout, streams.blobs.get(ROLLOUT, p.rollout_id)).support_ids)
            for p in plans
        ]
    )
    assert (tokens.support_ids_NK[ranked_N].numpy() == own_NK[ranked_N.numpy()]).all()
    assert (tokens.support_ids_NK[~ranked_N & ~first_N] == -1).all()
    assert (tokens.teacher_support_NK[ranked_N].diff(dim=1) <= 0).all()
    mass_N = tokens.teacher_support_NK.exp().sum(1) + tokens.teacher_tail_N.exp()
    assert torch.allclose(mass_N[ranked_N], torch.ones(int(ranked_N.sum())), atol=1e-5)
    assert (tokens.teacher_rest_N[~ranked_N] == 0).all()
    alone_N = torch.bincount(tokens.aligned_N, minlength=len(first_N)) == 1
    assert (ranked_N == first_N).all() == (across == "ranked")
    assert not (ranked_N & alone_N & (tokens.teacher_rest_N == 0)).all() or across == "ranked"


def test_a_teacher_that_was_not_asked_for_ranks_or_does_not_know_them_is_named(streams: Streams) -> None:
    plans = scored(streams)
    with pytest.raises(InvalidInput, match="r0: its teacher was asked for ranks.*older version"):
        load_micro_batch(streams, plans, BatchOptions(True, 1, aligns=True, across="ranked"), step=0)
