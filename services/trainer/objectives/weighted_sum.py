"""A weighted sum of objectives in one pass, e.g. reinforcement learning beside gated distillation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from torch import Tensor

from rgopd.trainer.gating.gate import PresetName
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.objectives.base import Across, Objective, ObjectiveOptions, ObjectiveOutput, SupportOwner, TokenBatch
from rgopd.trainer.objectives.registry import get_objective, register


class Part(BaseModel):
    """One summand."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    weight: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


@register
class WeightedSum(ObjectiveOptions):
    """``sum_i weight_i * loss_i``. The gate acts on the parts that distil; the others run over all tokens.

    One step has one denominator, so the parts must share theirs: give a GRPO part ``normalise: token`` beside a
    distillation objective. With an ungated part the gate masks the numerator only (``normalise.raw_sums``).
    Where the run names no gate, it is the first that a part asks for: with an ``rg_opd`` among them the paper's.
    """

    name: ClassVar[str] = "weighted_sum"
    row_local: ClassVar[bool] = False

    parts: list[Part] = Field(min_length=1)
    """The summands: {name, weight, options} of each."""
    _objectives: list[Objective] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _build(self) -> WeightedSum:
        if any(part.name == self.name for part in self.parts):
            raise ValueError("a weighted_sum cannot hold another; list all parts in one")
        if not any(part.weight for part in self.parts):
            raise ValueError("every part has weight 0: nothing would be learnt; give at least one another")
        self._objectives = [get_objective(part.name, **part.options) for part in self.parts]
        if not self.supports:
            raise ValueError("the parts have no support owner in common")
        if len(self._asked()) > 1:
            raise ValueError(
                "parts with `across: uld`, `hybrid` and others ask one teacher for different things: use one"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        """Where any part does."""
        return any(part.needs_teacher for part in self._objectives)

    @property
    def needs_entropy(self) -> bool:
        """Where any part does."""
        return any(part.needs_entropy for part in self._objectives)

    @property
    def needs_reference(self) -> bool:
        """Where any part does."""
        return any(part.needs_reference for part in self._objectives)

    @property
    def distills(self) -> bool:
        """Where any part does."""
        return any(part.distills for part in self._objectives)

    @property
    def wholly_gated(self) -> bool:
        """Where all parts are gated, or none distils and the gate acts on the whole."""
        kinds = {part.distills for part in self._objectives}
        return len(kinds) == 1 and all(part.wholly_gated for part in self._objectives)

    @property
    def default_gate(self) -> PresetName:
        """The first that a part asks for."""
        return next((part.default_gate for part in self._objectives if part.default_gate != "off"), "off")

    @property
    def importance_clip(self) -> float | None:
        """For the metrics: the least of the parts'; each truncates at its own."""
        clips = [getattr(part, "importance_clip", None) for part in self._objectives]
        return min((clip for clip in clips if clip is not None), default=None)

    @property
    def supports(self) -> frozenset[SupportOwner]:
        """The support owners that all parts work with."""
        return frozenset.intersection(*(part.supports for part in self._objectives))

    @property
    def aligns(self) -> bool:
        """Where all parts that distil do."""
        return all(part.aligns for part in self._objectives if part.needs_teacher)

    @property
    def across_rows(self) -> Across:
        """What all parts that distil ask for."""
        return next(iter(self._asked()), "mapped")

    def _asked(self) -> set[Across]:
        return {part.across_rows for part in self._objectives if part.needs_teacher}

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """Gated and ungated sums; ValueError where the parts have different denominators."""
        gated: list[Tensor] = []
        ungated: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        count_N: Tensor | None = None
        for part, objective in zip(self.parts, self._objectives, strict=True):
            output = objective.token_losses(stats, batch)
            if count_N is not None and not torch.allclose(count_N, output.count_N):
                raise ValueError("the parts have different denominators; set normalise: token on the GRPO part")
            count_N = output.count_N
            (gated if objective.distills else ungated).append(part.weight * output.loss_N)
            if output.ungated_loss_N is not None:
                ungated.append(part.weight * output.ungated_loss_N)
            metrics |= {f"{part.name}/{key}": value for key, value in output.metrics.items()}
        assert count_N is not None  # parts is not empty
        zero_N = torch.zeros_like(stats.sampled_logprobs_N)
        if not gated:  # nothing distils: the gate, if any, acts on the whole
            return ObjectiveOutput(sum(ungated, zero_N), count_N, metrics)
        return ObjectiveOutput(
            sum(gated, zero_N), count_N, metrics, ungated_loss_N=sum(ungated, zero_N) if ungated else None
        )
