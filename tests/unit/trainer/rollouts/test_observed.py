"""What people are shown of a step's rollouts: whole groups, and those that were not trained on with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.records.watch import KeepConfig
from rgopd.trainer.rollouts.observed import Observed, _short
from rgopd.trainer.rollouts.progress import Progress
from tests.unit.trainer.rollouts import test_orchestrator_faults as faults
from tests.unit.trainer.rollouts.test_orchestrator_faults import ERROR, FAILED, PASSED, Run, by_index

run, sampler = faults.run, faults.sampler  # fixtures


def lines(run: Run, plan: StepPlan) -> dict[str, list[dict[str, Any]]]:
    told = run.orchestrator.observed.take(plan.step, 1, plan.metrics)
    assert told is not None
    found: dict[str, list[dict[str, Any]]] = {"step": [], "group": [], "rollout": []}
    for row in told(lambda ids: f"{len(ids)} ids"):
        found[row["kind"]].append(row)
    return found


def outcomes(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {row["id"][8:]: row["outcome"] for row in found["rollout"]}


def keep(run: Run, **options: Any) -> None:
    run.orchestrator.observed.keep = KeepConfig(**options)


def test_whole_groups_with_what_is_known_of_them(run: Run) -> None:
    keep(run, rollouts=3)
    run.stages.start()
    plan = run.step()
    found = lines(run, plan)
    assert len(found["group"]) == 1
    assert len(found["rollout"]) == 3
    assert plan.watched == [row["id"] for row in found["rollout"]]
    assert (found["step"][0]["rollouts"], found["step"][0]["kept_rollouts"]) == (6, 3)
    (group,) = found["group"]
    assert group["check"] == {"kind": "math", "reference": "1"}
    assert group["prompt_text"].endswith(" ids")
    used = {r.rollout_id: r for micro in plan.micro_batches[0] for r in micro}
    for row in found["rollout"]:
        assert row["advantage"] == used[row["id"]].advantage
        assert row["reward"] == used[row["id"]].reward
        assert row["verdict"]["status"] == ("passed" if row["reward"] else "failed")
        assert row["finish"] in ("stop", "length")


def test_the_ranks_hear_of_it_in_the_plan(run: Run) -> None:
    run.stages.start()
    plan = run.step()
    assert StepPlan.from_json(plan.to_json()).watched == plan.watched
    assert len(plan.watched) == 6


def test_which_groups_depends_on_seed_and_step_alone() -> None:
    def slots(step: int, seed: int) -> set[int]:
        config = TrainConfig.from_mapping({"student": "x", "dataset": {"path": "x"}, "seed": seed})
        observed = Observed(config)
        observed.begin(step)
        return observed._slots

    assert slots(3, 0) == slots(3, 0)
    assert len(slots(3, 0)) == 4  # 32 rollouts in groups of 8
    assert len({frozenset(slots(step, seed)) for step in range(3) for seed in range(3)}) == 9


def test_an_error_of_another_group_is_kept_too(run: Run) -> None:
    keep(run, rollouts=3, dropped=1)
    run.stages.verdict = lambda item: ERROR if item.endswith("n002") else by_index(item)
    run.stages.start()
    found = lines(run, run.step())
    assert sorted(outcomes(found).values()) == ["error", "error", "trained", "trained"]
    for row in found["rollout"]:
        if row["outcome"] == "error":
            assert (row["reason"], row["reward"], row["advantage"]) == ("the sandbox is gone", None, None)
            assert row["verdict"]["status"] == "error"


def test_a_group_that_is_drawn_again_is_shown_beside_its_successor(run: Run) -> None:
    run.stages.verdict = lambda item: ERROR if "r1" not in item and not item.endswith("n000") else by_index(item)
    run.stages.start()
    found = lines(run, run.step())
    by_group = {row["group_id"]: row["redraw"] for row in found["group"]}
    assert sorted(by_group.values()) == [0, 0, 1, 1]
    shown = outcomes(found)
    assert shown["g0000-n000"] == "redrawn"
    assert shown["g0000-n001"] == "error"
    assert shown["g0000-r1-n000"] == "trained"


def test_groups_that_the_teacher_was_not_asked_about(run: Run) -> None:
    config = run.config.model_copy(update={"score": "after_verdict", "gate": "released"})
    run.orchestrator.config = run.dispatch.config = run.orchestrator.observed.config = config
    run.orchestrator.gate = config.gate_config()
    run.stages.verdict = lambda item: PASSED if "g0000" in item else FAILED if item.endswith("0") else PASSED
    run.stages.start()
    found = lines(run, run.step())
    shown = outcomes(found)
    assert {shown[f"g0000-n00{i}"] for i in range(3)} == {"unscored"}
    assert {shown[f"g0001-n00{i}"] for i in range(3)} == {"trained"}
    assert all("same reward" in row["reason"] for row in found["rollout"] if row["outcome"] == "unscored")


@pytest.mark.parametrize("options", [{"rollouts": 0}, {"every": 5}])
def test_nothing_where_nothing_is_wanted(run: Run, options: dict[str, Any]) -> None:
    keep(run, **options)
    run.stages.start()
    run.orchestrator.observed.begin(1)
    assert run.orchestrator.observed.take(1, 1, {}) is None


def test_long_checks_are_shortened() -> None:
    short = _short({"tests": ["x" * 5000] * 100, "n": 1})
    assert len(short["tests"]) == 33
    assert short["tests"][-1] == "[68 more]"
    assert short["tests"][0].endswith("[3000 characters more]")


def test_progress_by_stage_and_what_was_waited_for(run: Run) -> None:
    told: list[dict[str, tuple[int, int]]] = []
    run.join.progress = progress = Progress(told.append)
    run.stages.start()
    run.step()
    assert told[-1] == {"sampling": (6, 6), "verifying": (6, 6), "scoring": (6, 6)}
    waited = progress.restart()
    assert waited.keys() == {"sampling", "verifying", "scoring"}
    assert sum(waited.values()) > 0
    assert sum(progress.restart().values()) == 0
