"""The passes over a tile of logits as Triton kernels: one read for the statistics, one read and one write for the
gradient, where PyTorch's operators take eight. The products with the head's weight stay cuBLAS's.

Needs a GPU, or TRITON_INTERPRET=1, under which the tests run. ``choice.choose`` compares the kernels with PyTorch's
operators on the device before it trusts them.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from rgopd.trainer.losses import triton_kept, triton_rows
from rgopd.trainer.losses.buckets import PAD_LOGPROB
from rgopd.trainer.losses.products import project
from rgopd.trainer.losses.tiles import Kept, RowStats, SparseGrad

_BLOCK = 4096
"""Columns that one program holds at once."""


class TritonTiles:
    """See ``tiles.TileMath``. The tile keeps its raw logits until it becomes a gradient."""

    name = "triton"

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
        """Without the division by the temperature, which the kernels do on the way."""
        return project(hidden_CD, weight_TD, 1.0, out=out, bias_T=bias_T, soft_cap=soft_cap)

    def reduce_(
        self, logits_CV: Tensor, sampled_ids_C: Tensor, support_ids_CK: Tensor, need_entropy: bool, temperature: float
    ) -> RowStats:
        """One program a row."""
        rows, vocab = logits_CV.shape
        k = support_ids_CK.shape[1]
        log_normaliser_C, sampled_C = logits_CV.new_empty(rows), logits_CV.new_empty(rows)
        entropy_C, support_CK = logits_CV.new_zeros(rows), logits_CV.new_empty(rows, k)
        triton_rows.stats[(rows,)](
            logits_CV,
            sampled_ids_C.contiguous(),
            support_ids_CK.contiguous(),
            log_normaliser_C,
            sampled_C,
            support_CK,
            entropy_C,
            logits_CV.stride(0),
            vocab,
            k,
            1.0 / temperature,
            PAD=PAD_LOGPROB,
            BLOCK=min(_BLOCK, triton.next_power_of_2(vocab)),
            BLOCK_K=triton.next_power_of_2(max(1, k)),
        )
        return RowStats(log_normaliser_C, sampled_C, support_CK, entropy_C)

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
        """Into the tile itself, or for a narrower ``dtype`` into a buffer of that."""
        rows, width = tile_NT.shape
        out_NT = tile_NT if dtype == tile_NT.dtype else torch.empty_like(tile_NT, dtype=dtype)
        total_N = grad.values_NJ.sum(dim=1)
        # Kernels index rows by 1: a column of a wider tensor would be read wrongly.
        log_normaliser_N = log_normaliser_N.contiguous()
        slope_N, entropy_N = (x.contiguous() for x in (entropy if entropy is not None else (total_N, total_N)))
        named = grad.ids_NJ.shape[1]
        # Before the dense pass overwrites the logits at these ids; stored after it.
        at_NJ = tile_NT.new_empty(rows, named)
        shared = (tile_NT, log_normaliser_N, grad.ids_NJ.contiguous(), grad.values_NJ.contiguous(), at_NJ)
        scalars = (tile_NT.stride(0), width, start, named, 1.0 / temperature, 1.0 / soft_cap if soft_cap else 0.0)
        options = {"HAS_ENTROPY": entropy is not None, "HAS_CAP": bool(soft_cap)}
        block_j = triton.next_power_of_2(named)
        triton_rows.named[(rows,)](*shared, total_N, slope_N, entropy_N, *scalars, **options, BLOCK_J=block_j)
        block = min(_BLOCK, triton.next_power_of_2(width))
        triton_rows.dense[(rows, triton.cdiv(width, block))](
            tile_NT,
            out_NT,
            log_normaliser_N,
            total_N,
            slope_N,
            entropy_N,
            tile_NT.stride(0),
            out_NT.stride(0),
            width,
            1.0 / temperature,
            scalars[-1],
            **options,
            BLOCK=block,
        )
        triton_rows.store[(rows,)](
            out_NT,
            grad.ids_NJ.contiguous(),
            grad.values_NJ.contiguous(),
            at_NJ,
            out_NT.stride(0),
            width,
            start,
            named,
            BLOCK_J=block_j,
        )
        return out_NT

    def absorb_(self, tile_CT: Tensor, start: int, temperature: float, kept: Kept) -> None:
        """One program a row and block; the row's first also looks the named ids up."""
        rows, width = tile_CT.shape
        named, keep = kept.ids_CJ.shape[1], kept.logits_CV
        triton_kept.absorb[(rows, triton.cdiv(width, kept.block))](
            tile_CT,
            tile_CT if keep is None else keep,
            kept.largest_CB,
            kept.total_CB,
            kept.moment_CB,
            kept.ids_CJ,
            kept.named_CJ,
            tile_CT.stride(0),
            0 if keep is None else keep.stride(0),
            kept.largest_CB.stride(0),
            width,
            start,
            named,
            1.0 / temperature,
            KEEP=keep is not None,
            BLOCK=kept.block,
            BLOCK_J=triton.next_power_of_2(named),
        )

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
        """One program a row and block, then one a row for its named ids."""
        keep = kept.logits_CV
        assert keep is not None
        rows, width = out_AT.shape
        named = grad.ids_NJ.shape[1]
        total_A = grad.values_NJ.sum(dim=1)
        log_normaliser_A = log_normaliser_A.contiguous()
        slope_A, entropy_A = (x.contiguous() for x in (entropy if entropy is not None else (total_A, total_A)))
        order_A = log_normaliser_A if rows_A is None else rows_A.contiguous()
        per_row = (log_normaliser_A, total_A, slope_A, entropy_A)
        cap = 1.0 / soft_cap if soft_cap else 0.0
        options = {"HAS_ROWS": rows_A is not None, "HAS_ENTROPY": entropy is not None, "HAS_CAP": bool(soft_cap)}
        triton_kept.spend[(rows, triton.cdiv(width, kept.block))](
            keep,
            out_AT,
            order_A,
            kept.largest_CB,
            *per_row,
            keep.stride(0),
            out_AT.stride(0),
            kept.largest_CB.stride(0),
            width,
            start,
            1.0 / temperature,
            temperature * cap,
            **options,
            BLOCK=kept.block,
        )
        triton_kept.spend_named[(rows,)](
            out_AT,
            order_A,
            grad.ids_NJ.contiguous(),
            grad.values_NJ.contiguous(),
            kept.named_CJ,
            *per_row,
            out_AT.stride(0),
            width,
            start,
            named,
            1.0 / temperature,
            temperature * cap,
            **options,
            BLOCK_J=triton.next_power_of_2(named),
        )

    def scale_(self, values: Tensor, factor: Tensor) -> None:
        """Programs that find a 1 end there, so that a gradient of hundreds of megabytes is not rewritten for it."""
        flat = values.view(-1)
        triton_kept.scale[(triton.cdiv(flat.numel(), _BLOCK),)](flat, factor.detach(), flat.numel(), BLOCK=_BLOCK)
