"""The head by tiles of the vocabulary, with the logits kept narrowed between statistics and gradient: how a GPU walks.

A tile of float32 logits is small enough to be read again while it is in the GPU's cache. One kernel takes the running
sums of the softmax from it, the named ids' logits, and writes the rest down in the hidden states' dtype, each relative
to the largest of its block of ids. Once a row has seen the whole vocabulary its normaliser is known; a second kernel
turns the kept logits into their gradient, where they lie, and two products spend that. So main memory sees the logits
four times in 16 bits where whole float32 rows cross it twice and their narrow gradient three times, and the weight's
gradient is written once a chunk of thousands of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.losses.plan import TilePlan
from rgopd.trainer.losses.products import add_product, matmul_grad
from rgopd.trainer.losses.tiles import Kept, RowStats, SparseGrad, TileMath, Walk, compute_dtype

_GATHERED = 1 << 26
"""Gradients at work at once where some of the kept rows have none: 128 MiB in 16 bits."""


def by_tiles(walk: Walk, hidden_ND: Tensor) -> bool:
    """Whether to walk by tiles. On a CPU, whose caches hold no tile, whole rows are as fast."""
    return walk == "tiles" or (walk == "auto" and hidden_ND.is_cuda)


@dataclass(frozen=True)
class HeadTiles:
    """A head to be walked: its weight over the shared vocabulary, and what follows the product."""

    tiles: TileMath
    weight_VD: Tensor
    bias_V: Tensor | None
    temperature: float
    soft_cap: float
    plan: TilePlan

    def absorb(self, hidden_CD: Tensor, ids_CJ: Tensor, keep_CV: Tensor | None) -> Kept:
        """All tiles of some rows. ``keep_CV``: where their logits go, None for rows that get no gradient."""
        vocab, rows = self.weight_VD.shape[0], hidden_CD.shape[0]
        dtype = compute_dtype(hidden_CD)
        kept = Kept.empty(keep_CV, ids_CJ, vocab, self.plan.block, dtype)
        buffer = torch.empty(rows * min(self.plan.width, vocab), dtype=dtype, device=hidden_CD.device)
        for start in range(0, vocab, self.plan.width):
            stop = min(start + self.plan.width, vocab)
            tile_CT = buffer[: rows * (stop - start)].view(rows, stop - start)
            self.tiles.project(
                hidden_CD,
                self.weight_VD[start:stop],
                self.temperature,
                out=tile_CT,
                bias_T=None if self.bias_V is None else self.bias_V[start:stop],
                soft_cap=self.soft_cap,
            )
            self.tiles.absorb_(tile_CT, start, self.temperature, kept)
        return kept

    def spend(
        self,
        kept: Kept,
        hidden_CD: Tensor,
        log_normaliser_C: Tensor,
        grad: SparseGrad,
        entropy: tuple[Tensor, Tensor] | None,
        into: Gradients,
        *,
        first: bool,
    ) -> Tensor | None:
        """Gradients of rows that all have one, the kept logits being overwritten by theirs. Returns ``[C, D]``, of the
        hidden states; weight's and bias's are added to ``into``, or written there where ``first``."""
        assert kept.logits_CV is not None
        grad_CV = kept.logits_CV
        scalars = (entropy, self.temperature)
        self.tiles.spend_(kept, None, log_normaliser_C, grad, 0, grad_CV, *scalars, soft_cap=self.soft_cap)
        into.add_bias(grad_CV, slice(0, grad_CV.shape[1]))
        if into.weight_VD is not None:
            add_product(into.weight_VD[: grad_CV.shape[1]], grad_CV.t(), hidden_CD, accumulate=not first)
        return grad_CV @ self.weight_VD if into.hidden else None

    def spend_some(
        self,
        kept: Kept,
        rows_A: Tensor,
        hidden_AD: Tensor,
        log_normaliser_A: Tensor,
        grad: SparseGrad,
        entropy: tuple[Tensor, Tensor] | None,
        into: Gradients,
    ) -> Tensor | None:
        """The same of some rows ``[A]`` of those kept, whose gradients are gathered tile by tile."""
        vocab, rows = self.weight_VD.shape[0], hidden_AD.shape[0]
        width = max(kept.block, min(vocab, _GATHERED // rows) // kept.block * kept.block)
        buffer = torch.empty(rows * min(width, vocab), dtype=hidden_AD.dtype, device=hidden_AD.device)
        grad_hidden_AD = torch.zeros_like(hidden_AD, dtype=log_normaliser_A.dtype) if into.hidden else None
        for start in range(0, vocab, width):
            stop = min(start + width, vocab)
            grad_AT = buffer[: rows * (stop - start)].view(rows, stop - start)
            scalars = (start, grad_AT, entropy, self.temperature)
            self.tiles.spend_(kept, rows_A, log_normaliser_A, grad, *scalars, soft_cap=self.soft_cap)
            into.add_bias(grad_AT, slice(start, stop))
            weight_TD = None if into.weight_VD is None else into.weight_VD[start:stop]
            matmul_grad(grad_AT, hidden_AD, self.weight_VD[start:stop], grad_hidden_AD, weight_TD)
        return grad_hidden_AD


@dataclass(frozen=True)
class Gradients:
    """Where the head's gradients go. ``hidden``: whether the hidden states' are asked for."""

    hidden: bool
    weight_VD: Tensor | None
    bias_V: Tensor | None

    @staticmethod
    def for_(hidden: bool, weight_VD: Tensor | None, bias_V: Tensor | None, vocab: int, wide: bool) -> Gradients:
        """To be written: ids beyond the shared vocabulary are zero already. None: not asked for."""
        into_VD = None
        if weight_VD is not None:
            into_VD = torch.empty_like(weight_VD, dtype=compute_dtype(weight_VD) if wide else weight_VD.dtype)
            into_VD[vocab:].zero_()
        into_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=compute_dtype(bias_V))
        return Gradients(hidden, into_VD, into_V)

    def add_bias(self, grad_CT: Tensor, ids: slice) -> None:
        """A tile's share of the bias's gradient."""
        if self.bias_V is not None:
            self.bias_V[ids] += grad_CT.sum(0, dtype=self.bias_V.dtype)


def named_ids(sampled_ids_N: Tensor, support_ids_NK: Tensor) -> Tensor:
    """``[N, K + 1]``: the sampled id first."""
    return torch.cat([sampled_ids_N[:, None], support_ids_NK], dim=1)


def row_stats(kept: Kept, need_entropy: bool) -> RowStats:
    """The whole rows' statistics out of their blocks' (Milakov & Gimelshein, arXiv 1805.02867)."""
    largest_C1 = kept.largest_CB.amax(1, keepdim=True)
    below_CB = kept.largest_CB - largest_C1
    share_CB = below_CB.exp()
    total_C = (kept.total_CB * share_CB).sum(1)
    log_total_C = total_C.log()
    # (logit - largest) - log(total): never logit - logsumexp, whose rounding would drown a small tail
    logprob_CJ = kept.named_CJ - largest_C1 - log_total_C[:, None]
    support_CK = logprob_CJ[:, 1:].masked_fill(kept.ids_CJ[:, 1:] < 0, PAD_LOGPROB)
    entropy_C = torch.zeros_like(total_C)
    if need_entropy:
        moment_C = ((kept.moment_CB + below_CB * kept.total_CB) * share_CB).sum(1)
        entropy_C = log_total_C - moment_C / total_C
    return RowStats(largest_C1[:, 0] + log_total_C, logprob_CJ[:, 0].clone(), support_CK, entropy_C)
