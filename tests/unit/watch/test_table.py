from __future__ import annotations

import math

import pytest

from rgopd.watch.table import MAX_COLUMNS, Table, flatten, wilson


def table(count: int) -> Table:
    made = Table()
    for step in range(count):
        made.append(step, {"a": float(step), "spike": 100.0 if step == 777 else 0.0})
    return made


def test_nested_numbers_become_columns() -> None:
    row = {"a": 1, "ok": True, "text": "x", "verdicts": {"passed": 3, "by": {"A/x": 0.5}}}
    assert dict(flatten(row)) == {"a": 1.0, "ok": 1.0, "verdicts/passed": 3.0, "verdicts/by/A/x": 0.5}


def test_few_points_come_as_they_are() -> None:
    answer = table(20).window(["a", "absent"], 5, 9, 600)
    assert answer == {"x": [5, 6, 7, 8, 9], "y": {"a": [5, 6, 7, 8, 9]}, "exact": True}


def test_a_spike_of_one_step_survives_thinning() -> None:
    answer = table(10_000).window(["a", "spike"], 0, 1 << 60, 100)
    assert len(answer["x"]) == len(answer["y"]["spike"]) == 100
    assert answer["x"][-1] == 9999, "the newest step is there"
    assert max(answer["high"]["spike"]) == 100
    assert max(answer["y"]["spike"]) == 1, "the mean of a hundred steps"
    assert answer["low"]["a"][0] == 0
    assert answer["high"]["a"][-1] == 9999


def test_columns_may_begin_late_and_miss_values() -> None:
    made = Table()
    made.append(0, {"a": 1.0})
    made.append(1, {"a": math.nan, "b": 2.0})
    made.append(2, {"b": math.inf})
    assert made.window(["a", "b"], 0, 9, 10)["y"] == {"a": [1.0, None, None], "b": [None, 2.0, None]}
    assert made.value("b") is None
    assert made.recent("b", 3) == [2.0]
    assert made.window(["a"], 0, 9, 2)["y"]["a"] == [1.0, None]


def test_steps_only_go_forward_and_columns_are_bounded() -> None:
    made = table(3)
    made.append(1, {"a": 9.0})
    assert made.window(["a"], 0, 9, 10)["y"]["a"] == [0, 1, 2]
    made.append(3, {f"c{i}": 1.0 for i in range(2 * MAX_COLUMNS)})
    assert len(made.columns) == MAX_COLUMNS


def test_an_empty_table_has_an_answer() -> None:
    assert Table().window(["a"], 0, 10, 5) == {"x": [], "y": {}, "exact": True}
    assert Table().last == -1


def test_wilsons_interval() -> None:
    """Against the table in Brown, Cai and DasGupta (2001): 0 of 10 gives [0, .278]; 50 of 100 gives [.404, .596]."""
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert wilson(1.0, 5)[1] == 1.0
    assert wilson(0.0, 0) == (0.0, 1.0)
