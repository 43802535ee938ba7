"""The arithmetic of one tile of logits: made, reduced, turned into its own gradient, spent. Shared by ``head`` and
``fused``; every function writes into buffers it is given, and no autograd graph is built here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.losses.buckets import PAD_LOGPROB

_ENTROPY_BLOCKS = 8
"""The entropy needs p beside log p; it takes them this fraction of a chunk at a time."""
_UPCAST_ROWS = 8192
"""Weight rows widened to float32 at a time where the device has no mixed-precision product."""


@dataclass(frozen=True)
class RowStats:
    """Per row: log of the normaliser, sampled and support log-probs, entropy (zeros unless asked for)."""

    log_normaliser_N: Tensor
    sampled_N: Tensor
    support_NK: Tensor
    entropy_N: Tensor

    @staticmethod
    def cat(parts: list[RowStats], hidden_ND: Tensor, k: int, dtype: torch.dtype) -> RowStats:
        if not parts:
            empty = torch.zeros(0, dtype=dtype, device=hidden_ND.device)
            return RowStats(empty, empty.clone(), empty.new_zeros(0, k), empty.clone())
        return RowStats(
            torch.cat([part.log_normaliser_N for part in parts]),
            torch.cat([part.sampled_N for part in parts]),
            torch.cat([part.support_NK for part in parts]),
            torch.cat([part.entropy_N for part in parts]),
        )


@dataclass(frozen=True)
class SparseGrad:
    """Incoming gradients at the J = K + 1 named ids of a row: ``ids_NJ`` (padding moved to id 0 with value 0),
    ``values_NJ``; after ``sorted_by_id`` also the same entries in the order of their ids, to cut them by tile."""

    ids_NJ: Tensor
    values_NJ: Tensor
    order_E: Tensor | None = None

    @staticmethod
    def of(sampled_ids_N: Tensor, support_ids_NK: Tensor, sampled_N: Tensor, support_NK: Tensor) -> SparseGrad:
        ids_NJ = torch.cat([sampled_ids_N[:, None], support_ids_NK], dim=1)
        values_NJ = torch.cat([sampled_N[:, None], support_NK], dim=1)
        pad_NJ = ids_NJ < 0
        return SparseGrad(ids_NJ.masked_fill(pad_NJ, 0), values_NJ.masked_fill(pad_NJ, 0.0))

    def take(self, rows_A: Tensor) -> SparseGrad:
        return SparseGrad(self.ids_NJ[rows_A], self.values_NJ[rows_A])

    def sorted_by_id(self) -> SparseGrad:
        return SparseGrad(self.ids_NJ, self.values_NJ, self.ids_NJ.flatten().argsort())

    def add_to_(self, grad_NT: Tensor, start: int, scale: float) -> None:
        """Adds ``scale * value`` at each id within ``[start, start + T)``; a row may name an id twice."""
        ids_E, values_E = self.ids_NJ.flatten(), self.values_NJ.flatten()
        order_E = self.order_E
        if order_E is None:
            grad_NT.scatter_add_(1, self.ids_NJ - start, self.values_NJ * scale)
            return
        edges = torch.tensor([start, start + grad_NT.shape[1]], device=ids_E.device)
        first, last = torch.searchsorted(ids_E[order_E], edges).tolist()
        entry_M = order_E[first:last]
        rows_M = entry_M // self.ids_NJ.shape[1]
        grad_NT.index_put_((rows_M, ids_E[entry_M] - start), values_E[entry_M] * scale, accumulate=True)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays (for gradcheck); everything else is reduced in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_inputs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    sampled_ids_N: Tensor,
    support_ids_NK: Tensor,
    vocab: int,
    temperature: float,
    chunk_size: int,
) -> None:
    """Raises ValueError saying what does not fit."""
    if type(weight_VD.data).__name__ == "DTensor":
        raise ValueError(
            "the head's weight is sharded; call this inside the forward of the module that owns it, "
            "where FSDP2 has gathered it, or pass weight.full_tensor()"
        )
    rows = hidden_ND.shape[0]
    if hidden_ND.ndim != 2 or weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"want hidden [N, D] and weight [V, D], got {[*hidden_ND.shape]}, {[*weight_VD.shape]}")
    if hidden_ND.dtype != weight_VD.dtype:
        raise ValueError(f"hidden is {hidden_ND.dtype} and weight {weight_VD.dtype}: cast one to the other's")
    if sampled_ids_N.shape != (rows,) or support_ids_NK.ndim != 2 or support_ids_NK.shape[0] != rows:
        raise ValueError(
            f"want sampled ids [{rows}] and support ids [{rows}, K], got {[*sampled_ids_N.shape]} and "
            f"{[*support_ids_NK.shape]}: one row per response token"
        )
    if not 0 < vocab <= weight_VD.shape[0]:
        raise ValueError(f"vocab_size {vocab} does not fit a head of {weight_VD.shape[0]} rows")
    if not temperature > 0.0 or chunk_size < 1:
        raise ValueError(f"temperature and chunk_size must be positive, got {temperature} and {chunk_size}")
    for name, ids, lowest in (("sampled", sampled_ids_N, 0), ("support", support_ids_NK, -1)):
        if ids.numel() and (int(ids.min()) < lowest or int(ids.max()) >= vocab):
            raise ValueError(
                f"{name} ids must lie in [{lowest}, {vocab}), got {int(ids.min())}..{int(ids.max())}: "
                "student, teacher and sampler must share one vocabulary"
            )


def project(hidden_CD: Tensor, weight_TD: Tensor, temperature: float, *, out: Tensor) -> Tensor:
    """``hidden @ weight.T / temperature`` into ``out`` ``[C, T]`` of the compute dtype.

    Low-precision inputs never make low-precision logits: near a logit of 20 bfloat16 steps by 0.125.
    """
    if hidden_CD.dtype == out.dtype:
        torch.mm(hidden_CD, weight_TD.t(), out=out)
    elif hidden_CD.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):
        out.copy_(torch.mm(hidden_CD, weight_TD.t(), out_dtype=out.dtype))
    else:
        wide_CD = hidden_CD.to(out.dtype)
        for start in range(0, weight_TD.shape[0], _UPCAST_ROWS):
            some = slice(start, start + _UPCAST_ROWS)
            out[:, some] = wide_CD @ weight_TD[some].to(out.dtype).t()
    return out if temperature == 1.0 else out.div_(temperature)


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


def matmul_grad(
    grad_NT: Tensor,
    hidden_ND: Tensor,
    weight_TD: Tensor,
    grad_hidden_ND: Tensor | None,
    grad_weight_TD: Tensor | None,
    *,
    accumulate: bool = False,
) -> None:
    """Adds a tile's share to ``grad_hidden_ND`` (compute dtype) and writes, or adds, its ``grad_weight_TD``.

    Low-precision operands are widened to the tile's dtype, a slice of the vocabulary at a time; on a GPU the tile is
    narrowed instead, as the plain backward pass does, and the product accumulates in float32 there.
    """
    if hidden_ND.dtype == grad_NT.dtype:
        if grad_hidden_ND is not None:
            grad_hidden_ND.addmm_(grad_NT, weight_TD)
        if grad_weight_TD is not None:
            grad_weight_TD.addmm_(grad_NT.t(), hidden_ND, beta=float(accumulate))
        return
    dtype = hidden_ND.dtype if hidden_ND.is_cuda else grad_NT.dtype
    cast_ND = hidden_ND.to(dtype)
    for start in range(0, weight_TD.shape[0], _UPCAST_ROWS):
        some = slice(start, start + _UPCAST_ROWS)
        grad_NS = grad_NT[:, some].to(dtype)
        if grad_hidden_ND is not None:
            grad_hidden_ND.add_(grad_NS @ weight_TD[some].to(dtype))
        if grad_weight_TD is not None:
            share_SD = grad_NS.t() @ cast_ND
            grad_weight_TD[some] = grad_weight_TD[some] + share_SD if accumulate else share_SD
