"""Top-K forward KL, the classical distillation loss (Hinton et al., arXiv 1503.02531) on the student's rollouts."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from rgopd.trainer.losses.divergences import forward_kl
from rgopd.trainer.objectives.base import BucketObjective
from rgopd.trainer.objectives.registry import register


@register
class ForwardKL(BucketObjective):
    """``KL(pi_T || pi_theta)`` over the support and its tail.

    Mode covering: it asks for mass wherever the teacher has some, so the teacher's support suits it better than the
    student's (whose tail bucket hides what the student misses). Without the tail it goes negative as soon as the
    student holds more mass on the support than the teacher.
    """

    name: ClassVar[str] = "forward_kl"

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``KL(q || p)``."""
        return forward_kl(student_NB, teacher_NB)
