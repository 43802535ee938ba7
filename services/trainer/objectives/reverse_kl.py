"""Top-K reverse KL with tail (RG-OPD, arXiv 2607.04037, Eq. 4), alone and under the reward gate (Eq. 3)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from rgopd.trainer.gating.gate import PresetName
from rgopd.trainer.losses.divergences import reverse_kl
from rgopd.trainer.objectives.base import BucketObjective
from rgopd.trainer.objectives.registry import register


@register
class ReverseKL(BucketObjective):
    """``KL(pi_theta || pi_T)`` over the support and its tail, ungated: the paper's baseline.

    Without the tail the loss falls when the student empties its support (mass .9 -> .3: 0 -> -0.33; with the tail
    1.03).
    """

    name: ClassVar[str] = "reverse_kl"
    aligns: ClassVar[bool] = True

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``KL(p || q)``: Eq. 4."""
        return reverse_kl(student_NB, teacher_NB)


@register
class RGOPD(ReverseKL):
    """The paper's method: reverse KL on the tokens that the reward-teacher gate keeps (preset ``paper``)."""

    name: ClassVar[str] = "rg_opd"
    default_gate: ClassVar[PresetName] = "paper"
