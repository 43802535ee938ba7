"""The arithmetic of one tile of logits: made, reduced, turned into its own gradient, spent. Shared by ``head`` and
``fused``; every function writes into buffers it is given, and no autograd graph is built here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from rgopd.trainer.losses.buckets import PAD_LOGPROB

log = logging.getLogger(__name__)

Kernels = Literal["auto", "torch", "triton"]
"""Whose passes over the logits: ``auto`` is Triton's on a GPU where they agree with PyTorch's, else PyTorch's."""

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
    if hidden_ND.dtype == compute_dtype(hidden_ND):
        if grad_hidden_ND is not None:
            grad_hidden_ND.addmm_(grad_NT, weight_TD)
        if grad_weight_TD is not None:
            grad_weight_TD.addmm_(grad_NT.t(), hidden_ND, beta=float(accumulate))
        return
    dtype = hidden_ND.dtype if hidden_ND.is_cuda else grad_NT.dtype  # narrow already where a kernel wrote it so
    cast_ND = hidden_ND.to(dtype)
    for start in range(0, weight_TD.shape[0], _UPCAST_ROWS):
        some = slice(start, start + _UPCAST_ROWS)
        grad_NS = grad_NT[:, some].to(dtype)
        if grad_hidden_ND is not None:
            grad_hidden_ND.add_(grad_NS @ weight_TD[some].to(dtype))
        if grad_weight_TD is not None:
            share_SD = grad_NS.t() @ cast_ND
            grad_weight_TD[some] = grad_weight_TD[some] + share_SD if accumulate else share_SD


class TileMath(Protocol):
    """The passes over a tile of logits, which two implementations share a contract for.

    ``project`` fills the tile; ``reduce_`` reads whole rows of it and may overwrite them; ``grad_`` turns it into
    the gradient of the logits, in the tile or in a buffer of the narrower ``dtype``. Its ``log_normaliser_N`` is None
    right after ``reduce_``, and the rows' where a tile was made anew.
    """

    name: str

    def project(self, hidden_CD: Tensor, weight_TD: Tensor, temperature: float, *, out: Tensor) -> Tensor: ...

    def reduce_(
        self, logits_CV: Tensor, sampled_ids_C: Tensor, support_ids_CK: Tensor, need_entropy: bool, temperature: float
    ) -> RowStats: ...

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
    ) -> Tensor: ...


class TorchTiles:
    """PyTorch's own operators: any device, any dtype."""

    name = "torch"

    def project(self, hidden_CD: Tensor, weight_TD: Tensor, temperature: float, *, out: Tensor) -> Tensor:
        """See ``project``."""
        return project(hidden_CD, weight_TD, temperature, out=out)

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
    ) -> Tensor:
        """See ``logits_grad_``; always in the tile, ``matmul_grad`` narrows it slice by slice."""
        if not reduced:
            tile_NT.sub_(log_normaliser_N[:, None])
        logits_grad_(tile_NT, grad, start, entropy, 1.0 / temperature)
        return tile_NT


def choose(kernels: Kernels, hidden_ND: Tensor) -> TileMath:
    """Whose passes to use for these hidden states.

    Raises ImportError where ``triton`` was asked for by name and is not there.
    """
    if kernels == "torch" or (kernels == "auto" and not (hidden_ND.is_cuda and hidden_ND.dtype != torch.float64)):
        return TorchTiles()
    if kernels == "triton":
        from rgopd.trainer.losses.triton_tiles import TritonTiles

        return TritonTiles()
    return _trusted(hidden_ND.device.index or 0, hidden_ND.dtype)


@lru_cache
def _trusted(device: int, dtype: torch.dtype) -> TileMath:
    """Triton's passes if they compile on this GPU and agree with PyTorch's on a small tile; decided once a process."""
    try:
        from rgopd.trainer.losses.triton_tiles import TritonTiles

        worst = disagreement(TritonTiles(), torch.device("cuda", device), dtype)
    except (ImportError, RuntimeError, ValueError, OSError) as error:  # Triton's own errors are RuntimeErrors
        log.warning("the head's Triton kernels are not used: %s", error)
        return TorchTiles()
    if worst > 1e-4:
        log.warning("the head's Triton kernels are not used: they differ from PyTorch's by %.2g", worst)
        return TorchTiles()
    return TritonTiles()


def disagreement(tiles: TileMath, device: torch.device, dtype: torch.dtype) -> float:
    """Largest relative difference of another implementation's statistics and gradients from PyTorch's, on a tile with
    padding, a sampled id within the support, and a vocabulary that is no multiple of any block."""
    rng = torch.Generator().manual_seed(0)
    rows, vocab, width, k = 3, 5003, 64, 5
    hidden = torch.randn(rows, width, generator=rng).to(device, dtype)
    weight = torch.randn(vocab, width, generator=rng).to(device, dtype)
    support = torch.stack([torch.randperm(vocab, generator=rng)[:k] for _ in range(rows)]).to(device)
    support[0, -1] = -1
    sampled = support[:, 0].clone()
    sampled[-1] = vocab - 1
    grads = torch.randn(rows, k + 2, generator=rng).to(device)
    found = []
    for math in (TorchTiles(), tiles):
        tile = hidden.new_empty(rows, vocab, dtype=torch.float32)
        math.project(hidden, weight, 0.7, out=tile)
        stats = math.reduce_(tile, sampled, support, True, 0.7)
        grad = SparseGrad.of(sampled, support, grads[:, 0], grads[:, 1 : k + 1])
        entropy = (grads[:, -1], stats.entropy_N)
        gradient = math.grad_(tile, stats.log_normaliser_N, grad, 0, entropy, 0.7, reduced=True, dtype=torch.float32)
        found.append([stats.log_normaliser_N, stats.sampled_N, stats.support_NK, stats.entropy_N, gradient.clone()])
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in zip(*found, strict=True))
