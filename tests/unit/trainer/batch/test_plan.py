from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rgopd.trainer.batch.plan import RolloutPlan, StepPlan, cut_micro_batches


def rollouts(lengths: list[int]) -> list[RolloutPlan]:
    return [RolloutPlan(f"r{i:04d}", 3, length, 1.0, 0.5, 0) for i, length in enumerate(lengths)]


@given(
    lengths=st.lists(st.integers(1, 50), max_size=40),
    ranks=st.integers(1, 5),
    max_tokens=st.integers(1, 300),
    max_rollouts=st.integers(1, 9),
)
def test_every_rollout_once_equal_counts_and_within_budget(
    lengths: list[int], ranks: int, max_tokens: int, max_rollouts: int
) -> None:
    given_rollouts = rollouts(lengths)
    shares = cut_micro_batches(given_rollouts, ranks, max_tokens, max_rollouts)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    assert shares[0]
    flat = [r for share in shares for micro in share for r in micro]
    assert sorted(flat, key=lambda r: r.rollout_id) == given_rollouts
    for share in shares:
        for micro in share:
            assert len(micro) <= max_rollouts
            assert len(micro) <= 1 or max(r.tokens for r in micro) * len(micro) <= max_tokens


@given(st.lists(st.integers(1, 50), max_size=20), st.randoms())
def test_the_cut_does_not_depend_on_the_order_of_arrival(lengths: list[int], random: object) -> None:
    given_rollouts = rollouts(lengths)
    shuffled = list(given_rollouts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cut_micro_batches(shuffled, 2, 100, 8) == cut_micro_batches(given_rollouts, 2, 100, 8)


@given(
    temperatures=st.lists(st.sampled_from([None, 0.5, 1.0]), max_size=30),
    ranks=st.integers(1, 4),
    packing=st.booleans(),
)
def test_a_micro_batch_is_of_one_temperature(temperatures: list[float | None], ranks: int, packing: bool) -> None:
    mixed = [replace(r, temperature=t) for r, t in zip(rollouts([7] * 30), temperatures, strict=False)]
    shares = cut_micro_batches(mixed, ranks, 60, 8, packing=packing)
    assert len({len(share) for share in shares}) == 1
    assert shares[0]
    micros = [micro for share in shares for micro in share]
    assert sorted((r for micro in micros for r in micro), key=lambda r: r.rollout_id) == mixed
    assert all(len({r.temperature for r in micro}) <= 1 for micro in micros)
    assert StepPlan.from_json(StepPlan(0, shares).to_json()).micro_batches == shares


def test_ranks_get_like_amounts_of_work() -> None:
    shares = cut_micro_batches(rollouts(list(range(10, 210))), 4, 1000, 64)
    loads = [sum(max(r.tokens for r in micro) * len(micro) for micro in share) for share in shares]
    assert max(loads) <= 1.1 * min(loads)


def test_one_rollout_still_feeds_a_forward_on_every_rank() -> None:
    assert [len(share) for share in cut_micro_batches(rollouts([5]), 3, 100, 8)] == [1, 1, 1]


def test_plans_survive_the_broadcast() -> None:
    plan = StepPlan(7, cut_micro_batches(rollouts([3, 9, 4]), 2, 20, 8), {"reward_mean": 0.5})
    assert StepPlan.from_json(plan.to_json()) == plan
