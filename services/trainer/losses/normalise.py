"""Eq. 3's normaliser: ONE global ratio over every micro-batch and rank.

A mean of micro-batch means is another loss (it weighs a token by how few kept tokens its micro-batch had). So each
micro-batch back-propagates a raw sum; kept counts and sums are added over micro-batches and all-reduced once; the
accumulated gradient is divided once, before clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class TokenLosses(Protocol):
    """What ``raw_sums`` reads of an objective's output; see ``objectives.base.ObjectiveOutput``."""

    @property
    def loss_N(self) -> Tensor:
        """``[N]`` the gated part, already weighted."""

    @property
    def count_N(self) -> Tensor:
        """``[N]`` what each token adds to the denominator."""

    @property
    def ungated_loss_N(self) -> Tensor | None:
        """``[N]`` the part that the gate leaves alone, or None."""


@dataclass(frozen=True)
class RawSums:
    """One micro-batch's share of numerator and denominator."""

    loss: Tensor
    """0-dim, differentiable: call backward on it."""
    count: Tensor
    """0-dim float64."""


def raw_sums(losses: TokenLosses, keep_N: Tensor) -> RawSums:
    """Numerator and denominator of Eq. 3 for one micro-batch: ``sum keep * loss`` and ``sum keep * count``.

    A dropped token contributes exactly 0 to the loss and gets a zero gradient, so the head skips its row. An
    objective with a part that the gate does not touch (RL beside distillation) adds that part over all tokens, and
    its denominator then counts all tokens: the gate is a mask in the numerator only.
    """
    zero = losses.loss_N.new_zeros(())
    loss = torch.where(keep_N, losses.loss_N, zero).sum()
    if losses.ungated_loss_N is None:
        return RawSums(loss, torch.where(keep_N, losses.count_N.double(), 0.0).sum())
    return RawSums(loss + losses.ungated_loss_N.sum(), losses.count_N.double().sum())


def all_reduce_sums(sums: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> dict[str, float]:
    """Adds 0-dim sums and counts over the ranks in one float64 all-reduce; every rank must pass the same keys.

    Without a process group it only converts. The one host synchronisation of a step's statistics.
    """
    if not sums:
        return {}
    keys = sorted(sums)
    stacked = torch.stack([sums[key].detach().double() for key in keys])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(stacked, group=group)
    return dict(zip(keys, stacked.tolist(), strict=True))


def gradient_scale(
    count: float, *, kept_fraction: float = 1.0, min_kept_fraction: float = 0.0, averaged_over: int = 1
) -> float | None:
    """What to multiply the accumulated raw gradient by, or None: skip the step (loss 0, nothing to learn from).

    ``count``: the global denominator, in whatever unit the objective counts (tokens, rollouts). ``kept_fraction``:
    the gate's share of all response TOKENS. None where nothing is kept or that share is under ``min_kept_fraction``.
    ``averaged_over``: FSDP2 and DDP average gradients over this many ranks, while Eq. 3 wants their sum.
    """
    if count <= 0.0 or kept_fraction < min_kept_fraction:
        return None
    return averaged_over / count
