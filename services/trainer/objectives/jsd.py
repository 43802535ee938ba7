"""Generalised Jensen-Shannon distillation (GKD, arXiv 2306.13649, Eq. 1)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from rgopd.trainer.losses.divergences import generalised_jsd
from rgopd.trainer.objectives.base import BucketObjective
from rgopd.trainer.objectives.registry import register


@register
class JSD(BucketObjective):
    """``beta KL(q || m) + (1 - beta) KL(p || m)``, ``m = beta q + (1 - beta) p``; bounded, so a wild teacher token
    cannot dominate a batch. ``beta`` 0 and 1 are forward and reverse KL; near them the mixture form itself tends to
    0, so the effective learning rate falls towards both ends."""

    name: ClassVar[str] = "jsd"
    beta: float = Field(default=0.5, ge=0.0, le=1.0)
    """0: forward KL, 1: reverse KL, between: JSD."""

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``losses.divergences.generalised_jsd`` at ``beta``."""
        return generalised_jsd(student_NB, teacher_NB, self.beta)
