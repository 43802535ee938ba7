"""The learning rate's course."""

from __future__ import annotations

import math

from rgopd.trainer.config import OptimConfig


def lr_factor(step: int, total_steps: int, config: OptimConfig) -> float:
    """What `lr` is multiplied by at a step: linear warm-up, then cosine to `min_lr_ratio`, or constant.

    The first step has 1/warmup_steps of the rate, never 0: a step is not spent on nothing.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
