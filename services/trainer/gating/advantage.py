"""The advantage of a rollout within its group (GRPO, arXiv 2402.03300 Eq. in §4.1.1; Dr.GRPO, arXiv 2503.20783)."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantage(
    reward_G: Tensor, valid_G: Tensor | None = None, *, scale_by_std: bool = True, eps: float = 1e-6
) -> Tensor:
    """GRPO advantage of the rollouts of ONE group: ``A_i = (r_i - mean(r)) / (std(r) + eps)``.

    ``reward_G``: ``[G]`` float rewards. ``valid_G``: ``[G]`` bool; False marks a verdict ``error``, whose reward is
    unknown: it takes no part in mean or std, its advantage is 0 and the caller drops the rollout (an error is never a
    wrong answer). The standard deviation is the unbiased one (n-1), as in TRL and verl; ``scale_by_std=False`` is
    Dr.GRPO. Rewards that are all equal give advantages of exactly 0, whatever the rounding of their mean: dividing a
    rounding residue of 1e-8 by ``eps`` would otherwise decide the sign that the gate reads. Returns ``[G]`` float32.

    Raises ValueError on a wrong shape or a valid reward that is not finite.
    """
    valid_G = torch.ones_like(reward_G, dtype=torch.bool) if valid_G is None else valid_G.bool()
    if reward_G.ndim != 1 or valid_G.shape != reward_G.shape:
        raise ValueError(f"reward_G and valid_G must both be [G], got {[*reward_G.shape]} and {[*valid_G.shape]}")
    advantage_G = torch.zeros_like(reward_G, dtype=torch.float64)
    reward_V = reward_G[valid_G].double()
    if not torch.isfinite(reward_V).all():
        raise ValueError(f"rewards must be finite, got {reward_V.tolist()}; mark unknown rewards in valid_G")
    if reward_V.numel() == 0 or bool(reward_V.max() == reward_V.min()):
        return advantage_G.float()
    centred_V = reward_V - reward_V.mean()
    advantage_G[valid_G] = centred_V / (reward_V.std() + eps) if scale_by_std else centred_V
    return advantage_G.float()
