"""One tile of logits: what is said of it (the records) and who works on it (the protocol).

``torch_tiles`` and ``triton_tiles`` implement ``TileMath``, ``choice`` says which of them a device gets, ``products``
is what both leave to BLAS, and ``head`` and ``fused`` walk the vocabulary with whichever they are given. Nothing here
builds an autograd graph; every function writes into buffers it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Kernels = Literal["auto", "torch", "triton"]
"""Whose passes over the logits: ``auto`` is Triton's on a GPU where they agree with PyTorch's, else PyTorch's."""


@dataclass(frozen=True)
class RowStats:
    """Per row: log of the normaliser, sampled and support log-probs, entropy (zeros unless asked for)."""

    log_normaliser_N: Tensor
    sampled_N: Tensor
    support_NK: Tensor
    entropy_N: Tensor

    @staticmethod
    def cat(parts: list[RowStats], hidden_ND: Tensor, k: int, dtype: torch.dtype) -> RowStats:
        """Chunks of rows as one; without any, ``[0]`` and ``[0, k]`` on the device of the hidden states."""
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
        """From ids ``[N]`` and ``[N, K]`` (-1: padding) and the gradients of their log-probs, of the same shapes."""
        ids_NJ = torch.cat([sampled_ids_N[:, None], support_ids_NK], dim=1)
        values_NJ = torch.cat([sampled_N[:, None], support_NK], dim=1)
        pad_NJ = ids_NJ < 0
        return SparseGrad(ids_NJ.masked_fill(pad_NJ, 0), values_NJ.masked_fill(pad_NJ, 0.0))

    def take(self, rows_A: Tensor) -> SparseGrad:
        """The same of some rows ``[A]``; the order by id is not kept."""
        return SparseGrad(self.ids_NJ[rows_A], self.values_NJ[rows_A])

    def sorted_by_id(self) -> SparseGrad:
        """With ``order_E``, E = N * J: for many tiles one sort instead of a scatter over all entries each."""
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


class TileMath(Protocol):
    """The passes over a tile of logits, which two implementations share a contract for.

    ``project`` fills the tile; ``reduce_`` reads whole rows of it and may overwrite them; ``grad_`` turns it into
    the gradient of the logits, in the tile or in a buffer of the narrower ``dtype``. Its ``log_normaliser_N`` is None
    right after ``reduce_``, and the rows' where a tile was made anew.
    """

    name: str

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
        """Logits of T ids from hidden states ``[C, D]``, weight rows ``[T, D]`` and bias, into ``out`` ``[C, T]``."""

    def reduce_(
        self, logits_CV: Tensor, sampled_ids_C: Tensor, support_ids_CK: Tensor, need_entropy: bool, temperature: float
    ) -> RowStats:
        """What ``RowStats`` says of C whole rows ``[C, V]``, in nats; ids are int64, -1 pads a support."""

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
        """``[N, T]``: gradient of the logits of T ids from ``start``, before their ``soft_cap``; ``entropy``: (its
        gradient, H), ``[N]`` each."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays (for gradcheck); everything else is reduced in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
