"""Admission and order of the waiting room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgopd.common.errors import Overloaded, TooLarge
from rgopd.teacher.items import ScoreItem, Scoring
from rgopd.teacher.queueing import TokenQueue

NONE = Scoring("none", 0)


def item(tokens: int, name: str = "r", scoring: Scoring = NONE) -> ScoreItem:
    return ScoreItem(name, np.zeros(1, np.int32), np.zeros(tokens - 1, np.int32), scoring)


def names(batch) -> list[str]:
    return [entry.item.id for entry in batch]


def test_admission_counts_tokens_not_calls() -> None:
    queue = TokenQueue(1000)
    queue.admit([item(2) for _ in range(100)], 1.0)
    queue.admit([item(500)], 1.0)
    with pytest.raises(Overloaded) as full:
        queue.admit([item(301)], 7.0)
    assert full.value.retry_after == 7.0
    assert queue.outstanding == 700


def test_a_call_is_admitted_whole_or_not_at_all() -> None:
    queue = TokenQueue(1000)
    queue.admit([item(600)], 1.0)
    with pytest.raises(Overloaded):
        queue.admit([item(100), item(100), item(100)], 1.0)
    assert (queue.outstanding, len(queue)) == (600, 1)


def test_what_no_idle_service_could_hold_is_too_large() -> None:
    with pytest.raises(TooLarge, match="send fewer rollouts"):
        TokenQueue(1000).admit([item(400), item(400)], 1.0)


def test_large_calls_leave_room_for_small_ones() -> None:
    queue = TokenQueue(1000)
    queue.admit([item(400)], 1.0)
    queue.admit([item(350)], 1.0)
    with pytest.raises(Overloaded):
        queue.admit([item(251)], 1.0)
    queue.admit([item(250)], 1.0)
    assert queue.outstanding == 1000


def test_a_small_call_behind_a_huge_one_is_in_the_next_batch() -> None:
    queue = TokenQueue(1 << 20, quantum=64)
    queue.admit([item(50, f"huge{i}") for i in range(1000)], 1.0)
    assert len(queue.take(500)) == 10
    queue.admit([item(50, "small")], 1.0)
    assert "small" in names(queue.take(500))


def test_two_calls_share_a_batch_by_tokens_not_by_rollouts() -> None:
    queue = TokenQueue(1 << 20, quantum=100)
    queue.admit([item(100, "long") for _ in range(50)], 1.0)
    queue.admit([item(10, "short") for _ in range(500)], 1.0)
    batch = queue.take(2000)
    by_call = {name: sum(e.item.tokens for e in batch if e.item.id == name) for name in ("long", "short")}
    assert by_call == {"long": 1000, "short": 1000}


def test_a_rollout_over_the_batch_budget_goes_alone() -> None:
    queue = TokenQueue(1 << 20)
    queue.admit([item(5000, "large"), item(10, "next")], 1.0)
    assert names(queue.take(100)) == ["large"]
    assert names(queue.take(100)) == ["next"]


def test_a_large_rollout_is_taken_although_small_ones_keep_coming() -> None:
    queue = TokenQueue(1 << 20, quantum=16)
    queue.admit([item(15, "early")], 1.0)
    queue.admit([item(90, "large")], 1.0)
    taken = []
    for _ in range(2):
        for _ in range(8):
            queue.admit([item(15, "small")], 1.0)
        taken += names(queue.take(100))
    assert "large" in taken


def test_scorings_do_not_mix_and_neither_starves() -> None:
    queue = TokenQueue(1 << 20)
    hot = Scoring("none", 0, 0.7)
    queue.admit([item(10, "cold")] * 5, 1.0)
    queue.admit([item(10, "hot", hot)], 1.0)
    queue.admit([item(10, "cold")] * 5, 1.0)
    assert names(queue.take(60)) == ["cold"] * 6
    assert names(queue.take(60)) == ["hot"]
    assert names(queue.take(60)) == ["cold"] * 4


def test_a_cancelled_rollout_leaves_its_place() -> None:
    queue = TokenQueue(1000)
    first, second = queue.admit([item(100, "a"), item(100, "b")], 1.0)
    queue.release(first)
    assert (queue.outstanding, queue.waiting) == (100, 100)
    assert names(queue.take(1000)) == ["b"]
    queue.release(second)
    assert (queue.outstanding, queue.waiting, len(queue)) == (0, 0, 0)


@given(
    calls=st.lists(
        st.lists(st.tuples(st.integers(2, 60), st.sampled_from([0.5, 1.0])), min_size=1, max_size=8), max_size=8
    ),
    budget=st.integers(1, 80),
    quantum=st.integers(1, 100),
)
def test_everything_admitted_is_taken_once_in_order_and_within_the_budget(calls, budget, quantum) -> None:
    queue = TokenQueue(1 << 20, quantum)
    admitted = []
    for number, call in enumerate(calls):
        items = [item(t, f"{number}.{i}", Scoring("none", 0, temp)) for i, (t, temp) in enumerate(call)]
        admitted += queue.admit(items, 1.0)
    taken = []
    while batch := queue.take(budget):
        assert len({entry.item.scoring for entry in batch}) == 1
        assert len(batch) == 1 or sum(entry.item.tokens for entry in batch) <= budget
        taken += batch
    assert sorted(names(taken)) == sorted(names(admitted))
    for number in range(len(calls)):
        own = [name for name in names(taken) if name.startswith(f"{number}.")]
        assert own == sorted(own, key=lambda name: int(name.partition(".")[2]))
    for entry in taken:
        queue.release(entry)
    assert (queue.outstanding, queue.waiting, len(queue)) == (0, 0, 0)
