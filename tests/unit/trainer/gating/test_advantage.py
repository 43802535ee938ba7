from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rgopd.trainer.gating.advantage import group_advantage


def reference(rewards: list[float], *, scale: bool, eps: float = 1e-6) -> list[float]:
    """GRPO straight from its definition, in Python floats."""
    mean = math.fsum(rewards) / len(rewards)
    if not scale:
        return [reward - mean for reward in rewards]
    std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / (std + eps) for reward in rewards]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 1.0, -1.0]), min_size=2, max_size=12), st.booleans())
def test_matches_the_definition(rewards: list[float], scale: bool) -> None:
    expected = reference(rewards, scale=scale)
    got = group_advantage(torch.tensor(rewards), scale_by_std=scale)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, 0.7])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_a_group_that_agrees_has_advantage_exactly_zero(reward: float, size: int) -> None:
    assert group_advantage(torch.full((size,), reward)).tolist() == [0.0] * size


def test_errors_take_no_part() -> None:
    rewards = torch.tensor([1.0, 0.0, 123.0, 1.0])
    valid = torch.tensor([True, True, False, True])
    got = group_advantage(rewards, valid)
    torch.testing.assert_close(got[[0, 1, 3]], group_advantage(torch.tensor([1.0, 0.0, 1.0])))
    assert got[2] == 0.0


def test_a_nan_reward_is_an_error_unless_it_is_marked() -> None:
    rewards = torch.tensor([1.0, float("nan"), 0.0])
    with pytest.raises(ValueError, match="finite"):
        group_advantage(rewards)
    assert torch.isfinite(group_advantage(rewards, torch.tensor([True, False, True]))).all()


def test_all_errors() -> None:
    assert group_advantage(torch.tensor([1.0, 0.0]), torch.tensor([False, False])).tolist() == [0.0, 0.0]


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        group_advantage(torch.zeros(2), torch.ones(3, dtype=torch.bool))
