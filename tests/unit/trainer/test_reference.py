"""The reference policy is the student as it was found; and what stale rollouts weigh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from services.trainer.batch import assemble
from services.trainer.config import TrainConfig
from services.trainer.lora import LoraOptions
from services.trainer.plan import RolloutPlan
from services.trainer.reference import make_reference
from services.trainer.student import Student
from tests.unit.trainer.lone import load, lone_rank, step
from tests.unit.trainer.ranks import make_part

GRPO = {"name": "grpo", "reference_kl": 10.0}


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_rank(tmp_path_factory.mktemp("store")):
        yield


def reference_logprobs(student: Student, folder: Path) -> torch.Tensor:
    parts = [make_part(i, 40, 6) for i in range(3)]
    plans = [RolloutPlan(f"r{i}", len(p.prompt_ids_C), len(p.response_ids_T), 1.0, 1.0, 0) for i, p in enumerate(parts)]
    reference = make_reference(student, lambda: load(folder), 0.7, wanted=True)
    assert reference is not None
    micro = reference.add_to(assemble(parts, plans, step=0, total_steps=1, packing=True))
    assert micro.tokens.reference_logprobs_N is not None
    assert not micro.tokens.reference_logprobs_N.requires_grad
    return micro.tokens.reference_logprobs_N


@pytest.mark.parametrize("lora", [None, LoraOptions(r=4)])
def test_it_stays_where_it_was_while_the_student_moves(student_folder: Path, lora: LoraOptions | None) -> None:
    expected = reference_logprobs(load(student_folder), student_folder)
    _, _, moved = step(student_folder, lora=lora, steps=2)
    torch.testing.assert_close(reference_logprobs(moved, student_folder), expected, atol=2e-5, rtol=1e-5)


def test_the_objective_gets_it_and_feels_it_once_the_student_has_moved(student_folder: Path) -> None:
    first, metrics, _ = step(student_folder, objective=GRPO)
    without, _, _ = step(student_folder, objective={"name": "grpo"})
    for name in first:  # at the reference, k3 and its gradient are 0
        torch.testing.assert_close(first[name], without[name], atol=1e-6, rtol=1e-5)
    kl = next(value for key, value in metrics.items() if "reference" in key or key.endswith("kl"))
    assert kl == pytest.approx(0, abs=1e-6)
    two, later, _ = step(student_folder, objective=GRPO, steps=2)
    free, _, _ = step(student_folder, objective={"name": "grpo"}, steps=2)
    assert max(float((two[k] - free[k]).abs().max()) for k in two) > 1e-4
    assert next(v for k, v in later.items() if "reference" in k or k.endswith("kl")) > 1e-6


def config(**changes: object) -> TrainConfig:
    return TrainConfig(student="x", dataset={"path": "x"}, redis_url="redis://x", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rg_opd", "reverse_kl", "forward_kl", "jsd"])
def test_stale_rollouts_get_truncated_importance_weights(name: str) -> None:
    assert config(objective={"name": name}).build_objective().importance_clip is None  # type: ignore[attr-defined]
    stale = config(objective={"name": name}, max_staleness=1)
    assert stale.build_objective().importance_clip == 2.0  # type: ignore[attr-defined]
    off = config(objective={"name": name}, max_staleness=1, importance_clip=None)
    assert off.build_objective().importance_clip is None  # type: ignore[attr-defined]
    own = config(objective={"name": name, "options": {"importance_clip": 5.0}}, max_staleness=1)
    assert own.build_objective().importance_clip == 5.0  # type: ignore[attr-defined]


def test_the_weights_are_in_the_metrics(student_folder: Path) -> None:
    # The made-up behaviour log-probs have nothing to do with the student: ratios far from 1.
    _, metrics, _ = step(student_folder, objective={"name": "reverse_kl", "importance_clip": 2.0})
    assert 0 < metrics["importance_truncated_fraction"] < 1
    assert 0 < metrics["importance_effective_fraction"] < 1
    assert metrics["importance_mean"] > 0
    _, plain, _ = step(student_folder)
    assert plain["importance_truncated_fraction"] == 0
    assert plain["loss"] != pytest.approx(metrics["loss"], rel=1e-3)


def test_a_prefilter_beside_an_ungated_part_is_refused() -> None:
    assert config(gate_prefilter="behaviour").gate_prefilter == "behaviour"
    with pytest.raises(ValidationError, match="gate_prefilter=off"):
        config(gate_prefilter="behaviour", objective={"name": "grpo"})


def test_a_bare_off_is_yamls_false_and_means_off() -> None:
    assert not config(gate=False).gate_config().enabled
