"""The simulator against cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgopd.cli.simulate import simulate_gpus
from rgopd.common.errors import ConfigError
from rgopd.simulate.costs import Costs, SamplerCosts, StoreCosts, TeacherCosts, TrainerCosts, VerifierCosts
from rgopd.simulate.engine import Report, Simulation
from rgopd.simulate.presets import PAPER, STORE, gpu_costs
from rgopd.simulate.sizing import balanced, demand
from rgopd.simulate.workload import Cluster, Workload

FREE_STORE = StoreCosts(0.0, 0.0)
COSTS = Costs(
    "by hand",
    "chosen",
    SamplerCosts(prefill_s_token=0.001, step_s=0.01, step_s_rollout=0.001, load_s=0.5),
    TeacherCosts(batch_s=0.1, token_s=0.002, batch_tokens=1_000),
    VerifierCosts(item_s=0.2),
    TrainerCosts(step_s=1.0, token_s=0.001, publish_s=0.25),
    FREE_STORE,
)
# one rollout of exactly 100 tokens after a prompt of 50
ONE = Workload(1, 1, 1, mean_tokens=100, max_new_tokens=100, sigma=0.0, prompt_tokens=50, k=8)


def simulate(workload: Workload, cluster: Cluster, costs: Costs = COSTS, steps: int = 6) -> Report:
    return Simulation(workload, cluster, costs, steps=steps).run()


def test_one_rollout_takes_the_sum_of_its_stages() -> None:
    report = simulate(ONE, Cluster(1, 1, 1, 1))
    sampling = 0.5 + 50 * 0.001 + 100 * (0.01 + 0.001)
    scoring = 0.1 + 150 * 0.002  # longer than the verdict, beside it
    training = 1.0 + 150 * 0.001
    assert report.step_s == pytest.approx(sampling + scoring + training + 0.25)
    assert report.waits["collect"] == pytest.approx(sampling + scoring)
    assert report.waits["train"] == pytest.approx(training)


def test_without_a_teacher_the_verdict_is_what_a_step_waits_for() -> None:
    report = simulate(replace(ONE, k=0), Cluster(1, 1, 0, 1))
    assert report.waits["collect"] == pytest.approx(0.5 + 0.05 + 1.1 + 0.2)
    assert report.busy["teacher"] == 0.0


def test_a_batch_gets_faster_as_its_rollouts_end() -> None:
    """Two equal rollouts of one group: its prompt is read once, and each token step carries both."""
    report = simulate(replace(ONE, n=2, k=0), Cluster(1, 1, 0, 2))
    assert report.waits["collect"] == pytest.approx(0.5 + 0.05 + 100 * (0.01 + 2 * 0.001) + 0.2)


def test_verdicts_queue_for_slots() -> None:
    many = replace(ONE, prompts_per_step=10, k=0)
    by_slots = [simulate(many, Cluster(1, 10, 0, slots)).waits["collect"] for slots in (1, 10)]
    assert by_slots[0] - by_slots[1] == pytest.approx(9 * 0.2)


def test_staleness_lets_stages_overlap() -> None:
    on_policy = simulate(ONE, Cluster(1, 1, 1, 1), steps=12)
    stale = simulate(replace(ONE, max_staleness=2), Cluster(1, 2, 1, 1), steps=12)
    assert stale.step_s < 0.7 * on_policy.step_s
    assert stale.step_s >= 1.15 - 1e-9, "never faster than the trainer alone"


def test_a_version_is_written_beside_the_next_step_but_not_beside_the_version_before() -> None:
    """With staleness 3 the trainer waits for it only where writing takes longer than a step."""
    stale = replace(ONE, max_staleness=3)
    quick, slow = (replace(COSTS, trainer=replace(COSTS.trainer, publish_s=s)) for s in (0.25, 3.0))
    assert simulate(stale, Cluster(1, 8, 1, 1), quick, steps=12).step_s == pytest.approx(1.15)
    assert simulate(stale, Cluster(1, 8, 1, 1), slow, steps=12).step_s == pytest.approx(3.0)


def mixing(kv_tokens: int) -> Costs:
    return replace(COSTS, sampler=replace(COSTS.sampler, kv_tokens=kv_tokens))


def test_requests_that_are_mixed_decode_together() -> None:
    two = replace(ONE, prompts_per_step=2, k=0)
    alone = simulate(two, Cluster(1, 1, 0, 2)).waits["collect"]
    mixed = simulate(two, Cluster(1, 1, 0, 2), mixing(1000)).waits["collect"]
    assert alone == pytest.approx(0.5 + 2 * (0.05 + 1.1) + 0.2)
    assert mixed == pytest.approx(0.5 + 0.1 + 100 * (0.01 + 2 * 0.001) + 0.2)


def test_a_request_without_room_in_the_cache_waits_for_room() -> None:
    """Two have room by the first guess, half of the longest response each and the prompt; the third has none."""
    three = replace(ONE, prompts_per_step=3, k=0)
    collect = simulate(three, Cluster(1, 1, 0, 3), mixing(200), steps=1).waits["collect"]
    assert collect == pytest.approx(0.5 + 0.1 + 1.2 + 0.05 + 1.1 + 0.2)


def test_a_request_for_other_weights_waits_for_the_rollouts_before_it() -> None:
    """One sampler, staleness 1: the next policy is loaded between two steps' rollouts, never among them."""
    stale = replace(ONE, prompts_per_step=2, n=2, k=0, max_staleness=1)
    light = replace(mixing(10_000), trainer=TrainerCosts(step_s=0.1, token_s=0.0))
    report = simulate(stale, Cluster(1, 1, 0, 8), light, steps=12)
    rollouts_s = 0.1 + 100 * (0.01 + 4 * 0.001)
    assert report.step_s == pytest.approx(0.5 + rollouts_s, rel=0.02)  # the first two steps share a version


def test_a_slow_store_becomes_the_bottleneck() -> None:
    workload = replace(ONE, prompts_per_step=64)
    slow = simulate(workload, Cluster(1, 64, 8, 64), replace(COSTS, store=StoreCosts(0.05, 0.0)))
    assert slow.bottleneck == "store"
    assert slow.busy["store"] <= 1.0 + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 99))
def test_nothing_is_busier_than_always(prompts: int, samplers: int, teachers: int, staleness: int, seed: int) -> None:
    workload = replace(ONE, prompts_per_step=prompts, n=3, sigma=0.4, max_new_tokens=300, max_staleness=staleness)
    cluster = Cluster(1, samplers, teachers, 1)
    report = Simulation(workload, cluster, COSTS, steps=4, seed=seed).run()
    # work that was begun and not finished at the end counts as busy too, hence the margin
    assert all(0 <= share <= 2.0 for share in report.busy.values())
    assert report.step_s >= COSTS.trainer.step_s


def test_demand_is_what_the_simulation_spends() -> None:
    """Two ways to the same number: the sum over a step's work, and the busy time of an on-policy run."""
    costs = replace(COSTS, sampler=replace(COSTS.sampler, load_s=0.0))
    needs = demand(replace(ONE, prompts_per_step=4), costs, ranks=1)
    report = simulate(replace(ONE, prompts_per_step=4), Cluster(1, 4, 1, 4), costs, steps=1)
    span = report.waits["collect"] + report.waits["train"] + 0.25
    assert report.busy["sampler"] * 4 * span == pytest.approx(needs.sampler)
    assert report.busy["verifier"] * 4 * span == pytest.approx(needs.verifier)
    assert report.busy["trainer"] * span == pytest.approx(needs.trainer)


@pytest.mark.parametrize("pair", ["1.5b-14b", "7b-72b", "7b-moe"])
def test_a_balanced_cluster_is_bound_by_no_server(pair: str) -> None:
    costs, teacher_gpus = gpu_costs(pair, "h100")
    workload = replace(PAPER, max_staleness=1)
    cluster = balanced(workload, costs, 2, teacher_gpus)
    report = Simulation(workload, cluster, costs, steps=6).run()
    assert max(report.busy[s] for s in ("sampler", "teacher", "verifier")) < 0.95
    fewer = replace(cluster, samplers=max(1, cluster.samplers // 2))
    assert Simulation(workload, fewer, costs, steps=6).run().step_s > report.step_s


def test_sizes_fit_their_gpus_and_too_few_are_refused() -> None:
    _, cluster, report = simulate_gpus("1.5b-14b", "h100", 64, replace(PAPER, max_staleness=1), steps=4, seed=0)
    assert 48 <= cluster.gpus <= 64
    assert report.tokens_s > 0
    with pytest.raises(ConfigError, match="too few"):
        simulate_gpus("7b-moe", "h100", 4, PAPER, steps=4, seed=0)
    with pytest.raises(ConfigError, match=r"1\.5b-14b"):
        simulate_gpus("3b-9b", "h100", 64, PAPER, steps=4, seed=0)


def test_blobs_elsewhere_and_more_servers_take_work_from_the_store() -> None:
    one = StoreCosts(message_s=0.001, byte_s=1e-6)
    assert one.work_s(10, 1000) == pytest.approx(0.011)
    assert replace(one, blobs=False).work_s(10, 1000) == pytest.approx(0.01)
    assert replace(one, servers=4).work_s(10, 1000) == pytest.approx(0.011 / 4)
    busy = [
        simulate_gpus("1.5b-14b", "h100", 64, replace(PAPER, max_staleness=1), steps=3, seed=0, store=store)[2].busy
        for store in (STORE, replace(STORE, servers=2), replace(STORE, blobs=False))
    ]
    assert busy[0]["store"] > busy[1]["store"] > busy[2]["store"]


def test_a_version_costs_a_hash_to_publish_and_another_to_load() -> None:
    costs, _ = gpu_costs("7b-72b", "h100")
    assert costs.trainer.publish_s == pytest.approx(2 * 7.62e9 / 1.8e9)
    assert costs.sampler.load_s == pytest.approx(0.5 + 2 * 7.62e9 / 1.8e9 + 2 * 7.62e9 / 5e9)
