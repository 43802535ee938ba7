"""The first step stops before the weights change where trainer and sampler compute different distributions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from rgopd.common.errors import ConfigError
from rgopd.common.head import AfterHead
from rgopd.trainer.batch.micro_batch import MicroBatch, Part, assemble
from rgopd.trainer.config import FaultConfig
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.model import Student, full_weights
from tests.families.build import save_tiny
from tests.unit.trainer.lone import load, lone_rank, plans_of
from tests.unit.trainer.ranks import make_part


@pytest.fixture(scope="module", autouse=True)
def _rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_rank(tmp_path_factory.mktemp("rank")):
        yield


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("granite"), "granite", logits_scaling=4.0)


def first_step(student: Student, shift: float, limit: float, *, on_policy: bool = True) -> dict[str, float]:
    """One step on rollouts that the student's own model sampled and scored; `shift`: the sampler's error in nats."""
    parts = [_own(student, make_part(i, 40, 6), shift) for i in range(4)]
    optimizer = SGD(student.parameters(), lr=1.0, foreach=False)
    step = TrainStep(
        student,
        optimizer,
        LambdaLR(optimizer, lambda _: 1.0),
        get_objective("reverse_kl"),
        GateConfig(enabled=False),
        1.0,
        1e9,
        max_drift=limit,
    )
    micro: MicroBatch = assemble(parts, plans_of(parts), step=0, total_steps=1, packing=student.packing)
    return step.run([micro], on_policy=on_policy)


def _own(student: Student, part: Part, shift: float) -> Part:
    """The part with the model's own log-probs, from its own forward, as sampler and teacher would give them."""
    ids = torch.from_numpy(np.concatenate([part.prompt_ids_C, part.response_ids_T]).astype(np.int64))
    rows_TV = student.own_logits(ids)[len(part.prompt_ids_C) - 1 : -1].detach().double().log_softmax(-1)
    named: dict[str, Any] = {
        "sampled": rows_TV.gather(1, ids[len(part.prompt_ids_C) :, None])[:, 0].float().numpy(),
        "topk": rows_TV.gather(1, torch.from_numpy(part.support_ids_TK.astype(np.int64))).float().numpy(),
    }
    tail = np.log1p(-np.exp(named["topk"].astype(np.float64)).sum(1)).astype(np.float32)
    return dataclasses.replace(
        part,
        behaviour_T=named["sampled"] + np.float32(shift),
        teacher_sampled_T=named["sampled"],
        teacher_support_TK=named["topk"],
        teacher_tail_T=tail,
    )


def test_a_student_that_is_its_own_teacher_has_no_drift_and_no_loss(granite: Path) -> None:
    metrics = first_step(load(granite), 0.0, FaultConfig().drift_limit("float32"))
    assert metrics["behaviour_drift"] < 1e-5
    assert abs(metrics["loss"]) < 1e-5


@pytest.mark.parametrize(("shift", "dtype", "stops"), [(0.04, "float32", False), (-0.06, "float32", True)])
def test_the_limit_is_in_nats_a_token(granite: Path, shift: float, dtype: str, stops: bool) -> None:
    limit = FaultConfig().drift_limit(dtype)
    student = load(granite)
    before = {k: v.clone() for k, v in full_weights(student, "float32").items()}
    if not stops:
        assert first_step(student, shift, limit)["behaviour_drift"] == pytest.approx(abs(shift), abs=1e-4)
        return
    with pytest.raises(ConfigError, match=r"are 0\.06 nats a token off .* \(limit 0\.05\).*nothing was trained"):
        first_step(student, shift, limit)
    assert all(torch.equal(before[k], v) for k, v in full_weights(student, "float32").items())


def test_a_forgotten_divisor_stops_the_run_and_not_only_doctor(granite: Path) -> None:
    """The fault that this is for: log-probs of a distribution that is not the student's."""
    student = load(granite)
    student.after_head = AfterHead()
    with pytest.raises(ConfigError, match="compute different distributions"):
        first_step(student, 0.0, FaultConfig().drift_limit("float32"))


def test_no_number_is_no_agreement(granite: Path) -> None:
    with pytest.raises(ConfigError, match="are nan nats a token off"):
        first_step(load(granite), math.nan, 1e9)


def test_later_and_stale_steps_may_drift(granite: Path) -> None:
    assert first_step(load(granite), 0.5, 0.05, on_policy=False)["behaviour_drift"] > 0.4


def test_limits_by_dtype_and_by_hand() -> None:
    assert (FaultConfig().drift_limit("float32"), FaultConfig().drift_limit("bfloat16")) == (0.05, 0.2)
    assert FaultConfig(max_drift=0.7).drift_limit("float32") == 0.7
