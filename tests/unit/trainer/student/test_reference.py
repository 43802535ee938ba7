"""The reference policy is the student as it was found; and what stale rollouts weigh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rgopd.trainer.batch.micro_batch import assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import GateConfig, gate_preset
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Student
from rgopd.trainer.student.reference import make_reference
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


def test_the_runs_tail_goes_to_every_objective_that_has_one_unless_it_has_its_own() -> None:
    none: Any = {"distillation": {"tail": "none"}}
    for name in ("rg_opd", "reverse_kl", "forward_kl", "jsd", "sdpo", "minillm", "tsd_kd"):
        assert config(objective={"name": name}, **none).build_objective().tail == "none"  # type: ignore[attr-defined]
        own = config(objective={"name": name, "options": {"tail": "renormalise"}}, **none)
        assert own.build_objective().tail == "renormalise"  # type: ignore[attr-defined]
    assert config(objective={"name": "kdrl"}, **none).build_objective().name == "kdrl"  # takes no tail


def mixture(*parts: Any, **changes: Any) -> TrainConfig:
    return config(objective={"name": "weighted_sum", "options": {"parts": list(parts)}}, **changes)


def test_the_runs_settings_reach_the_parts_of_a_weighted_sum() -> None:
    rl = {"name": "grpo", "options": {"normalise": "token"}}
    own = {"name": "jsd", "weight": 0.5, "options": {"tail": "renormalise", "importance_clip": 5.0}}
    run = mixture({"name": "rg_opd"}, own, rl, distillation={"tail": "none"}, max_staleness=1)
    built: Any = run.build_objective()
    assert [part.weight for part in built.parts] == [1.0, 0.5, 1.0]
    assert built.importance_clip == 2.0
    assert mixture(rl, {"name": "rg_opd"}).build_objective().importance_clip is None  # type: ignore[attr-defined]
    assert [part.options for part in built.parts] == [
        {"tail": "none", "importance_clip": 2.0},
        own["options"],
        rl["options"],
    ]


def test_a_weighted_sum_asks_for_the_gate_of_its_parts() -> None:
    rl = {"name": "grpo", "options": {"normalise": "token"}}
    assert mixture({"name": "rg_opd"}, rl).gate_config() == gate_preset("paper")
    assert mixture(rl, {"name": "jsd"}).gate_config() == gate_preset("off")
    assert mixture({"name": "rg_opd"}, rl, gate="off").gate_config() == gate_preset("off")


def test_a_gate_without_a_teacher_is_refused() -> None:
    for settings in ({"gate": "released"}, {"gate": {"delta": 0.1}}):
        with pytest.raises(ValidationError, match="objective 'grpo' asks none; set gate=off"):
            config(objective={"name": "grpo"}, **settings)
        with pytest.raises(ValidationError, match="objective 'weighted_sum' asks none; set gate=off"):
            mixture({"name": "grpo"}, **settings)
    assert not config(objective={"name": "grpo"}).gate_config().enabled


def test_scoring_after_the_verdict_is_refused_where_it_would_change_the_loss() -> None:
    rl = {"name": "grpo", "options": {"normalise": "token"}}
    late: Any = {"score": "after_verdict", "gate": "released"}
    with pytest.raises(ValidationError, match="objective 'kdrl' has a part that .* set score=immediately"):
        config(objective={"name": "kdrl"}, **late)
    with pytest.raises(ValidationError, match="set score=immediately"):
        mixture({"name": "rg_opd"}, rl, **late)
    for name in ("rg_opd", "minillm", "rlad"):  # the gate decides about all of it
        assert config(objective={"name": name}, **late).score == "after_verdict"
    assert mixture({"name": "rg_opd"}, {"name": "rlad", "options": {"normalise": "token"}}, **late)
    for gate in ("paper", "off"):  # nothing is left out
        assert config(objective={"name": "kdrl"}, score="after_verdict", gate=gate)


def test_rlad_is_gated_alone_and_in_a_mixture() -> None:
    assert config(objective={"name": "rlad"}).build_objective().distills
    part = {"name": "rlad", "options": {"normalise": "token"}}
    assert mixture({"name": "rg_opd"}, part).build_objective().wholly_gated


# torch takes a step that was skipped for one that was forgotten.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_the_least_kept_share_is_of_tokens_whatever_the_objective_counts(student_folder: Path, normalise: str) -> None:
    objective = {"name": "grpo", "normalise": normalise}
    _, metrics, _ = step(student_folder, objective=objective, gate=GateConfig(enabled=False, min_kept_fraction=0.9))
    assert (metrics["kept_fraction"], metrics["skipped"]) == (1.0, 0.0)
    _, gated, _ = step(student_folder, objective={"name": "rlad", "normalise": normalise}, gate=GateConfig())
    assert 0 < gated["kept_fraction"] < 1
    for factor, skipped in ((0.99, 0.0), (1.01, 1.0)):
        gate = GateConfig(min_kept_fraction=factor * gated["kept_fraction"])
        _, metrics, _ = step(student_folder, objective={"name": "rlad", "normalise": normalise}, gate=gate)
        assert metrics["skipped"] == skipped


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_tokens_that_were_never_scored_count_as_gated_out(student_folder: Path) -> None:
    _, plain, _ = step(student_folder, gate=GateConfig())
    gate = GateConfig(min_kept_fraction=0.6 * plain["kept_fraction"])
    _, some, _ = step(student_folder, gate=gate, unscored_tokens=0.5 * plain["response_tokens"])
    assert some["skipped"] == 0.0
    assert some["kept_fraction"] == pytest.approx(plain["kept_fraction"] / 1.5)
    _, many, _ = step(student_folder, gate=gate, unscored_tokens=plain["response_tokens"])
    assert many["skipped"] == 1.0
