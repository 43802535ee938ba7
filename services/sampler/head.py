"""A 16-bit student's logits in float32: its log-probs go into the loss, and logits rounded to bfloat16 are off by up
to 0.06 at 16. The products of 16-bit numbers are exact in float32, so only the sum has to be kept wide."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK_BYTES = 16 << 20
"""float32 copy of the head's rows at a time, where the device has no product of 16 bits into 32."""


def widen_head(model: Any) -> None:
    """From now on the model's head answers in float32, and what the model does to its logits afterwards is float32.

    Models in float32 stay as they are, and so do heads that are no plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.weight.dtype in (torch.bfloat16, torch.float16):
        head.forward = partial(float32_logits, head)  # type: ignore[method-assign]


def float32_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """``[..., V]`` float32 from hidden states ``[..., H]`` in the head's own 16-bit dtype."""
    hidden_RH, weight = hidden.flatten(0, -2), head.weight
    if weight.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):  # torch 2.8 and newer
        logits_RV = torch.mm(hidden_RH, weight.t(), out_dtype=torch.float32)
    else:
        logits_RV = hidden_RH.new_empty((len(hidden_RH), len(weight)), dtype=torch.float32)
        wide_RH, rows = hidden_RH.float(), max(1, _BLOCK_BYTES // (4 * weight.shape[1]))
        for start in range(0, len(weight), rows):
            ids = slice(start, start + rows)
            logits_RV[:, ids] = wide_RH @ weight[ids].float().t()
    if head.bias is not None:
        logits_RV += head.bias
    return logits_RV.view(*hidden.shape[:-1], len(weight))
