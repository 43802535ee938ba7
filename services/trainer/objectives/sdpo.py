"""Self-distillation policy optimisation's loss (SDPO, arXiv 2601.20802): top-K + tail JSD with an importance clip."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from rgopd.trainer.losses.divergences import generalised_jsd
from rgopd.trainer.objectives.base import BucketObjective
from rgopd.trainer.objectives.registry import register


@register
class SDPO(BucketObjective):
    """Generalised JSD against a teacher that is an average of the student itself, shown the feedback in its prompt.

    The loss is here; the self-teacher (an exponential moving average of the weights, rate 0.05, re-prompted with a
    verified solution or the verifier's words) is whoever answers ``/score_topk``. The published run takes the
    student's top 100, ``alpha`` 0.5 and weights clipped at 2.
    """

    name: ClassVar[str] = "sdpo"
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """0: forward KL, 1: reverse KL, between: JSD, as GKD's beta."""
    importance_clip: float | None = Field(default=2.0, gt=0.0)
    """Weigh a token by min(pi_theta / mu, clip); null: no weight."""

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``losses.divergences.generalised_jsd`` at ``alpha``."""
        return generalised_jsd(student_NB, teacher_NB, self.alpha)
