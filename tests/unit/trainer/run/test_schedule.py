from __future__ import annotations

import pytest

from rgopd.trainer.config import OptimConfig
from rgopd.trainer.run.schedule import lr_factor


def test_warm_up_is_linear_and_never_zero() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4)
    assert [lr_factor(s, 100, config) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_ends_at_the_minimum_and_passes_the_middle_at_half() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=0, min_lr_ratio=0.1)
    assert lr_factor(0, 100, config) == 1.0
    assert lr_factor(50, 100, config) == pytest.approx(0.55)
    assert lr_factor(100, 100, config) == pytest.approx(0.1)
    assert lr_factor(1000, 100, config) == pytest.approx(0.1)


def test_constant_stays() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=2, schedule="constant")
    assert lr_factor(99, 100, config) == 1.0
