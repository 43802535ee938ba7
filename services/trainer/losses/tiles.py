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
Walk = Literal["auto", "rows", "tiles"]
"""How the head is walked: in chunks of whole float32 rows, or in tiles whose logits are kept narrowed (``kept``).
``auto``: tiles on a GPU, rows on a CPU."""


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


@dataclass(frozen=True)
class Kept:
    """What is known of C rows of logits once every tile of them was absorbed; filled tile by tile."""

    logits_CV: Tensor | None
    """Each less the largest of its block, in nats at the temperature, in the hidden states' dtype. An entry that
    matters lies close to that, so that narrowing costs it as little as it costs its gradient. None: not kept."""
    largest_CB: Tensor
    """Of each block of ``block`` ids: its largest logit, ..."""
    total_CB: Tensor
    """... the sum of exp(logit - largest), ..."""
    moment_CB: Tensor
    """... and of (logit - largest) exp(logit - largest). All in the compute dtype."""
    ids_CJ: Tensor
    """int64, J = K + 1: the sampled id and the support, -1 pads."""
    named_CJ: Tensor
    """The logits of these, in the compute dtype, never narrowed; undefined at padding."""
    block: int

    @staticmethod
    def empty(logits_CV: Tensor | None, ids_CJ: Tensor, vocab: int, block: int, dtype: torch.dtype) -> Kept:
        """To be filled for the rows of ``ids_CJ``."""
        rows, blocks = ids_CJ.shape[0], -(-vocab // block)
        largest_CB, total_CB, moment_CB = torch.empty(3, rows, blocks, dtype=dtype, device=ids_CJ.device).unbind()
        named_CJ = torch.zeros(ids_CJ.shape, dtype=dtype, device=ids_CJ.device)
        return Kept(logits_CV, largest_CB, total_CB, moment_CB, ids_CJ, named_CJ, block)


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

    def absorb_(self, tile_CT: Tensor, start: int, temperature: float, kept: Kept) -> None:
        """Takes what ``kept`` is to know from the float32 logits of T ids from ``start``, a multiple of its block."""

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
        """The gradient of the logits of T ids from ``start`` into ``out_AT``, from what was kept of the rows ``rows_A``
        (None: all, and ``out_AT`` may be the kept logits themselves); else as ``grad_``."""

    def scale_(self, values: Tensor, factor: Tensor) -> None:
        """Multiplies by a 0-dim factor, which is nearly always 1 and is not waited for."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays (for gradcheck); everything else is reduced in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
