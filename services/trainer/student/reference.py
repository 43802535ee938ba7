"""The frozen reference policy of objectives with a KL to it: the student as the run found it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from rgopd.trainer.batch.micro_batch import MicroBatch
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.student.lora import adapters_off
from rgopd.trainer.student.model import Student


class Reference:
    """Log-probs of the sampled tokens under fixed weights, without gradients.

    Args:
        model: a sharded copy of the starting student; or the student itself where its adapters alone are trained.
        temperature: of micro-batches that bring none; log-probs are of the distribution at it.
    """

    def __init__(self, model: Student, temperature: float) -> None:
        self.model = model
        self.temperature = temperature

    def add_to(self, micro: MicroBatch) -> MicroBatch:
        """The micro-batch with `reference_logprobs_N` [N] float32. Collective under FSDP2."""

        def head(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, HeadStats]:
            stats = head_stats(
                hidden_ND,
                weight_VD,
                micro.tokens.sampled_ids_N,
                micro.tokens.support_ids_NK[:, :0],
                **self.model.head_options(micro.temperature or self.temperature),
            )
            return stats.sampled_logprobs_N, stats

        with torch.no_grad(), self._base():
            logprobs_N, _ = self.model(micro.input_ids_BS, micro.attention_mask_BS, micro.rows_N, head, micro.packed)
        tokens = dataclasses.replace(micro.tokens, reference_logprobs_N=logprobs_N)
        return dataclasses.replace(micro, tokens=tokens)

    def _base(self) -> AbstractContextManager[None]:
        return nullcontext() if self.model.lora is None else adapters_off(self.model)


def make_reference(
    student: Student, load: Callable[[], Student], temperature: float, *, wanted: bool
) -> Reference | None:
    """None where the objective does not ask. With LoRA the base is at hand; else `load` gives a second copy."""
    if not wanted:
        return None
    if student.lora is not None:
        return Reference(student, temperature)
    copy = load().eval().requires_grad_(False)
    return Reference(copy, temperature)
