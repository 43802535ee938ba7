"""AdamW, as many kernels as the device wants: one for all parameters on a GPU, the plain loop on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from rgopd.trainer.config import OptimConfig


def adamw_kernel(device_types: set[str]) -> dict[str, Any]:
    """Which of torch's implementations, as keywords of AdamW.

    On a GPU `fused`: one launch where the loop has nine a parameter (138 ms a step for 0.5B, whose bytes take 5). On a
    CPU the loop, whose bits earlier runs have; also with FSDP's offloading, whose parameters are on the CPU.
    """
    return {"fused": True} if device_types == {"cuda"} else {"foreach": False}


def make_adamw(parameters: Sequence[Tensor], optim: OptimConfig) -> AdamW:
    """Over the parameters that are trained."""
    return AdamW(
        parameters,
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        **adamw_kernel({p.device.type for p in parameters}),
    )


def scale_and_clip(parameters: Sequence[Tensor], scale: float, limit: float, *, at_once: bool | None = None) -> float:
    """Multiplies the gradients, then clips them to `limit`; their norm before clipping, over all ranks.

    `at_once`: in a few launches for all of them; None: on a GPU. The one wait for the device is the norm's.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if at_once is None:
        at_once = bool(grads) and all(grad.is_cuda for grad in grads)
    if at_once:
        torch._foreach_mul_([grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads], scale)
    else:
        for grad in grads:
            grad.mul_(scale)
    norm = clip_grad_norm_(parameters, limit, foreach=True if at_once else None)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
