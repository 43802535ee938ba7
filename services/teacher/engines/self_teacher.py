"""Self-teachers: the teacher's weights follow the student's published versions.

- "ema": an exponential moving average of the student, w_T <- (1 - rate) w_T + rate w_S once a version.
- "trust-region": the logits of the starting weights, moved by `rate` towards those of the newest student;
  in probabilities a geometric mean, p_T ~ p_0^(1 - rate) p_S^rate.

Both are options of the authors' released code beside an outside teacher (there with rate 0.05).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rgopd.common.errors import InvalidInput
from rgopd.protos import rollout_pb2
from rgopd.teacher.engines import EngineFault
from rgopd.teacher.engines.loading import load_model, take_apart
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import Score, ScoreItem

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

_ANOTHER = "a self-teacher must start from the student's own architecture, and the published student is another"

Latest = Callable[[], rollout_pb2.PolicyVersion | None]


class SelfTeacherEngine(TransformersEngine):
    """A transformers engine that looks for a newer student before each batch.

    A version that cannot be read (withdrawn in between) is passed over; the next one is taken. Versions skipped
    while the teacher was busy count: the average is moved as if each had been this one.
    """

    def __init__(self, config: TeacherConfig, latest: Latest) -> None:
        model, loaded, info = load_model(config)
        # The weights depend on where they started and on each version that was seen, and no short name tells that.
        info = replace(info, revision=f"{config.source}@start", cacheable=False)
        super().__init__(loaded, info, **self.options(config))
        self._latest = latest
        self._source = config.source
        self._rate = config.self_rate
        self._version = -1
        if config.source == "ema":
            self._followed: Any = model
            # bfloat16 cannot hold a 5% step of a small change, so the average is kept in float32.
            self._average = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}
        else:
            self._followed = copy.deepcopy(model)
            self._add_model(take_apart(self._followed), config.self_rate)

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Follow the student, then score."""
        self._follow()
        return super().score(items)

    def _follow(self) -> None:
        policy = self._latest()
        if policy is None or policy.version == self._version:
            return
        try:
            weights = {
                k: v for file in sorted(Path(policy.path).glob("*.safetensors")) for k, v in load_file(file).items()
            }
        except OSError as error:
            log.warning("policy version %d cannot be read, waiting for the next: %s", policy.version, error)
            return
        if not weights:
            log.warning("policy version %d has no weights at %s", policy.version, policy.path)
            return
        # A resumed run publishes from an earlier version on: that is one step as well.
        if not weights.keys() >= dict(self._followed.named_parameters()).keys():
            try:
                weights = self._converted(policy.path)
            except EngineFault as error:
                if Path(policy.path).is_dir():
                    raise
                log.warning("policy version %d went while it was read: %s", policy.version, error)
                return
        self._take(weights, max(1, policy.version - max(self._version, 0)))
        self._version = policy.version
        self._info = replace(self._info, revision=f"{self._source}:{self._rate:g}@{policy.version}")

    def _converted(self, folder: str) -> dict[str, Tensor]:
        """Weights that checkpoints hold otherwise than memory does (a layer's experts one by one)."""
        if not (Path(folder) / "config.json").is_file():
            raise EngineFault(f"{_ANOTHER}: its weights have other names, and there is no config.json beside them")
        try:
            model, told = type(self._followed).from_pretrained(
                folder, config=self._followed.config, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:  # weights of other shapes, say
            raise EngineFault(f"{_ANOTHER}: {' '.join(str(error).split())[:300]}") from error
        if wrong := sorted([*told["missing_keys"], *told["unexpected_keys"]]):
            raise EngineFault(f"{_ANOTHER}: it lacks, or has beside them, {wrong[0]}")
        state: dict[str, Tensor] = model.state_dict()
        return state

    @torch.no_grad()
    def _take(self, weights: dict[str, Tensor], steps: int) -> None:
        move = 1 - (1 - self._rate) ** steps
        for name, parameter in self._followed.named_parameters():
            new = weights.get(name)
            if new is None or new.shape != parameter.shape:
                raise EngineFault(f"{_ANOTHER}: it has no weight {name} of shape {list(parameter.shape)}")
            if self._source == "ema":
                parameter.copy_(self._average[name].lerp_(new.float(), move))
            else:
                parameter.copy_(new)


def latest_policy(redis: Any, run_id: str) -> Latest:
    """Reads the newest PolicyVersion that the trainer announced."""

    def latest() -> rollout_pb2.PolicyVersion | None:
        data = redis.get(f"rgopd:{{{run_id}}}:policy:latest")
        if data is None:
            return None
        policy = rollout_pb2.PolicyVersion()
        policy.ParseFromString(data)
        if not policy.path:
            raise InvalidInput("the announced policy version names no folder")
        return policy

    return latest
