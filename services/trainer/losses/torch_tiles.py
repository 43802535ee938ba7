"""The passes over a tile of logits with PyTorch's own operators: any device, any dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.losses.products import project
from rgopd.trainer.losses.tiles import Kept, RowStats, SparseGrad

_ENTROPY_BLOCKS = 8
"""The entropy needs p beside log p; it takes them this fraction of a chunk at a time."""


class TorchTiles:
    """`TileMath` in PyTorch's operators. The tile holds log-probs between `reduce_` and `grad_`."""

    name = "torch"

    def project(
        self,
        hidden_CD: Tensor,
        weight_TD: Tensor,
        temperature: float,
        *,
        out: Tensor,
        bias_T: Tensor | None = None,
        soft_cap: float = 0.0,
    ) -> Tensor:
        """See ``project``."""
        return project(hidden_CD, weight_TD, temperature, out=out, bias_T=bias_T, soft_cap=soft_cap)

    def reduce_(
        self, logits_CV: Tensor, sampled_ids_C: Tensor, support_ids_CK: Tensor, need_entropy: bool, temperature: float
    ) -> RowStats:
        """See ``reduce_rows_``; the temperature was applied by ``project``."""
        return reduce_rows_(logits_CV, sampled_ids_C, support_ids_CK, need_entropy)

    def grad_(
        self,
        tile_NT: Tensor,
        log_normaliser_N: Tensor,
        grad: SparseGrad,
        start: int,
        entropy: tuple[Tensor, Tensor] | None,
        temperature: float,
        *,
        reduced: bool,
        dtype: torch.dtype,
        soft_cap: float = 0.0,
    ) -> Tensor:
        """See ``logits_grad_``; always in the tile, ``matmul_grad`` narrows it slice by slice. A soft-cap's slope
        takes a second tile."""
        if not reduced:
            tile_NT.sub_(log_normaliser_N[:, None])
        slope_NT = None
        if soft_cap:  # of cap * tanh(z / cap), from the capped logits: log-prob + log-normaliser, at the temperature
            slope_NT = (tile_NT + log_normaliser_N[:, None]).mul_(temperature / soft_cap).square_().neg_().add_(1.0)
        logits_grad_(tile_NT, grad, start, entropy, 1.0 / temperature)
        return tile_NT if slope_NT is None else tile_NT.mul_(slope_NT)

    def absorb_(self, tile_CT: Tensor, start: int, temperature: float, kept: Kept) -> None:
        """Block by block; ``project`` applied the temperature."""
        width = tile_CT.shape[1]
        inside_CJ = (kept.ids_CJ >= start) & (kept.ids_CJ < start + width)
        found_CJ = tile_CT.gather(1, (kept.ids_CJ - start).clamp(0, width - 1))
        kept.named_CJ.copy_(torch.where(inside_CJ, found_CJ, kept.named_CJ))
        for offset in range(0, width, kept.block):
            number, logits_CB = (start + offset) // kept.block, tile_CT[:, offset : offset + kept.block]
            largest_C1 = logits_CB.amax(1, keepdim=True)
            logits_CB.sub_(largest_C1)
            weight_CB = logits_CB.exp()
            kept.largest_CB[:, number] = largest_C1[:, 0]
            kept.total_CB[:, number] = weight_CB.sum(1)
            kept.moment_CB[:, number] = torch.linalg.vecdot(weight_CB, logits_CB)
        if kept.logits_CV is not None:
            kept.logits_CV[:, start : start + width] = tile_CT

    def spend_(
        self,
        kept: Kept,
        rows_A: Tensor | None,
        log_normaliser_A: Tensor,
        grad: SparseGrad,
        start: int,
        out_AT: Tensor,
        entropy: tuple[Tensor, Tensor] | None,
        temperature: float,
        *,
        soft_cap: float = 0.0,
    ) -> None:
        """Block by block, each widened for itself; the named ids from their own float32 logits."""
        assert kept.logits_CV is not None
        named_AJ = kept.named_CJ if rows_A is None else kept.named_CJ[rows_A]
        whole_AJ = _named_grad(named_AJ, log_normaliser_A, grad, entropy, temperature, soft_cap)
        for offset in range(0, out_AT.shape[1], kept.block):
            first = start + offset
            logits_AB = kept.logits_CV[:, first : first + min(kept.block, out_AT.shape[1] - offset)]
            largest_A = kept.largest_CB[:, first // kept.block]
            if rows_A is not None:
                logits_AB, largest_A = logits_AB[rows_A], largest_A[rows_A]
            logprob_AB = logits_AB.to(log_normaliser_A.dtype) + (largest_A - log_normaliser_A)[:, None]
            dense_AB = _dense_grad(logprob_AB, log_normaliser_A, grad, entropy, temperature, soft_cap)
            out_AT[:, offset : offset + dense_AB.shape[1]] = dense_AB
        inside_AJ = (grad.values_NJ != 0) & (grad.ids_NJ >= start) & (grad.ids_NJ < start + out_AT.shape[1])
        rows, columns = inside_AJ.nonzero(as_tuple=True)
        out_AT[rows, grad.ids_NJ[rows, columns] - start] = whole_AJ[rows, columns].to(out_AT.dtype)

    def scale_(self, values: Tensor, factor: Tensor) -> None:
        """See ``TileMath``."""
        values.mul_(factor.to(values.dtype))


def _dense_grad(
    logprob_AT: Tensor,
    log_normaliser_A: Tensor,
    grad: SparseGrad,
    entropy: tuple[Tensor, Tensor] | None,
    temperature: float,
    soft_cap: float,
) -> Tensor:
    """See ``logits_grad_``, without the named ids' own entries."""
    weight_AT = -grad.values_NJ.sum(dim=1, keepdim=True)
    if entropy is not None:
        grad_entropy_A, entropy_A = entropy
        weight_AT = weight_AT - grad_entropy_A[:, None] * (logprob_AT + entropy_A[:, None])
    dense_AT = logprob_AT.exp() * weight_AT / temperature
    return dense_AT * _slope(logprob_AT, log_normaliser_A, temperature, soft_cap) if soft_cap else dense_AT


def _slope(logprob_AT: Tensor, log_normaliser_A: Tensor, temperature: float, soft_cap: float) -> Tensor:
    """Derivative of cap * tanh(z / cap) by z, from the log-probs."""
    return 1.0 - ((logprob_AT + log_normaliser_A[:, None]) * (temperature / soft_cap)).square()


def _named_grad(
    named_AJ: Tensor,
    log_normaliser_A: Tensor,
    grad: SparseGrad,
    entropy: tuple[Tensor, Tensor] | None,
    temperature: float,
    soft_cap: float,
) -> Tensor:
    """``[A, J]`` the whole gradient at the named ids; the sampled id, which comes first, may be named once more."""
    logprob_AJ = named_AJ - log_normaliser_A[:, None]
    same_AJ = (grad.ids_NJ == grad.ids_NJ[:, :1]) & (grad.values_NJ != 0)
    same_AJ[:, 0] = True
    own_AJ = grad.values_NJ + same_AJ * grad.values_NJ[:, :1]
    own_AJ[:, 0] = (same_AJ * grad.values_NJ).sum(1)
    dense_AJ = _dense_grad(logprob_AJ, log_normaliser_A, grad, entropy, temperature, 0.0)
    whole_AJ = dense_AJ + own_AJ / temperature
    return whole_AJ * _slope(logprob_AJ, log_normaliser_A, temperature, soft_cap) if soft_cap else whole_AJ


def reduce_rows_(logits_CV: Tensor, sampled_ids_C: Tensor, support_ids_CK: Tensor, need_entropy: bool) -> RowStats:
    """The row statistics of whole rows of logits, which are overwritten by their log-probs.

    The kernel subtracts the row's maximum before the logarithm of the sum. ``logit - logsumexp`` would not do: at a
    logsumexp of 20 float32 steps by 2e-6, which would drown a tail of that size.
    """
    sampled_logit_C = logits_CV.gather(1, sampled_ids_C[:, None]).squeeze(1)
    # Written over its own input: each element is read before it is written, and no second [C, V] is needed.
    torch.ops.aten._log_softmax.out(logits_CV, 1, False, out=logits_CV)
    sampled_C = logits_CV.gather(1, sampled_ids_C[:, None]).squeeze(1)
    support_CK = logits_CV.gather(1, support_ids_CK.clamp(min=0)).masked_fill_(support_ids_CK < 0, PAD_LOGPROB)
    entropy_C = torch.zeros_like(sampled_C)
    block = 1 + logits_CV.shape[0] // _ENTROPY_BLOCKS
    for start in range(0, logits_CV.shape[0] if need_entropy else 0, block):
        logprobs_BV = logits_CV[start : start + block]
        entropy_C[start : start + block] = -torch.linalg.vecdot(logprobs_BV.exp(), logprobs_BV)
    return RowStats(sampled_logit_C - sampled_C, sampled_C, support_CK, entropy_C)


def logits_grad_(
    logprobs_NT: Tensor,
    grad: SparseGrad,
    start: int,
    entropy: tuple[Tensor, Tensor] | None,
    scale: float,
) -> None:
    """Overwrites log-probs of the ids ``[start, start + T)`` with ``scale *`` the gradient of their logits.

    A log-prob's gradient is ``onehot - p``, so the row's named entries sum to a multiple of ``-p`` plus a few single
    entries. The entropy's is ``-p (log p + H)``; ``entropy`` is (its incoming gradient ``[N]``, H ``[N]``).
    """
    total_N1 = grad.values_NJ.sum(dim=1, keepdim=True)
    if entropy is None:
        logprobs_NT.exp_().mul_(total_N1 * -scale)
    else:
        grad_entropy_N, entropy_N = entropy
        slope_N1 = grad_entropy_N[:, None]
        weight_NT = (logprobs_NT + entropy_N[:, None]).mul_(-slope_N1).sub_(total_N1).mul_(scale)
        logprobs_NT.exp_().mul_(weight_NT)
    grad.add_to_(logprobs_NT, start, scale)
