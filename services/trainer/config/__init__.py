"""Settings of `rgopd train`, one small model a concern; `train.py` holds them together.

In: YAML, environment and `--set`, by `rgopd.common.settings`.
Out: `TrainConfig` and its groups; bad values are errors that name the key.
Not imported here: the process and the rollouts, which read these settings.
"""

from __future__ import annotations

from rgopd.trainer.config.evaluation import EvalConfig
from rgopd.trainer.config.loss import DistillationConfig, ObjectiveConfig
from rgopd.trainer.config.sampling import DomainSampling, SamplingConfig, TurnsConfig
from rgopd.trainer.config.steps import BatchConfig, CheckpointConfig, FaultConfig, OptimConfig
from rgopd.trainer.config.train import GATES, TrainConfig

__all__ = [
    "GATES",
    "BatchConfig",
    "CheckpointConfig",
    "DistillationConfig",
    "DomainSampling",
    "EvalConfig",
    "FaultConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "SamplingConfig",
    "TrainConfig",
    "TurnsConfig",
]
