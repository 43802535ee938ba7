"""Several rollouts in one row without padding: positions per rollout, and attention that stays inside each.

Everything of the body that works a token at a time (projections, MLP, norms: nearly all of its time) then sees real
tokens alone. Attention is computed by flash-attn's variable-length kernel where that is installed (the model gets the
cumulative lengths that it asks for), and elsewhere by scaled-dot-product attention over groups of rollouts of like
length: a mask of the whole row would cost the square of its length.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

from rgopd.common.errors import ConfigError

GROUPED = "rgopd_packed"
"""Name of our attention among those of transformers."""

MAX_ATTENTION_PADDING = 1.25
"""Longest over shortest rollout of an attention group: what may be padding there is at most a fifth."""


@dataclass(frozen=True)
class PackedRow:
    """How the S tokens of one row fall into rollouts."""

    lengths: tuple[int, ...]
    position_ids_1S: Tensor
    """int64, from 0 in each rollout."""
    cumulative_R1: Tensor
    """int32: where each rollout starts, and S: what variable-length kernels call cu_seqlens."""
    groups: tuple[Tensor, ...]
    """int64 [b, T] a group: the places in the row of its b rollouts, right-padded with their own last place."""
    inverse_S: Tensor
    """int64: where each token of the row is in the groups' outputs laid end to end."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> PackedRow:
        """For rollouts of these lengths, in their order in the row."""
        starts = [0, *itertools.accumulate(lengths)]
        groups, inverse_S, offset = [], torch.empty(starts[-1], dtype=torch.int64), 0
        for members in _like_lengths(lengths):
            width = lengths[members[0]]
            for place, member in enumerate(members):
                span = torch.arange(lengths[member])
                inverse_S[starts[member] + span] = offset + place * width + span
            groups.append(torch.stack([starts[m] + torch.arange(width).clamp(max=lengths[m] - 1) for m in members]))
            offset += width * len(members)
        return cls(
            tuple(lengths),
            torch.cat([torch.arange(n) for n in lengths])[None],
            torch.tensor(starts, dtype=torch.int32),
            tuple(groups),
            inverse_S,
        )

    def to(self, device: torch.device) -> PackedRow:
        """The same on another device."""
        groups = tuple(g.to(device) for g in self.groups)
        return PackedRow(
            self.lengths,
            self.position_ids_1S.to(device),
            self.cumulative_R1.to(device),
            groups,
            self.inverse_S.to(device),
        )

    def arguments(self) -> dict[str, Any]:
        """What a decoder's forward passes on to its attention."""
        longest = max(self.lengths)
        return {
            "position_ids": self.position_ids_1S,
            "cu_seq_lens_q": self.cumulative_R1,
            "cu_seq_lens_k": self.cumulative_R1,
            "max_length_q": longest,
            "max_length_k": longest,
            "packed_row": self,
        }


def _like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of rollouts by falling length, cut where the next would be too short for the group's width."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and lengths[groups[-1][0]] <= MAX_ATTENTION_PADDING * lengths[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def enable_packing(model: Any, device: torch.device) -> None:
    """Give a causal LM the attention that packed rows need on `device`; padded batches still work.

    Raises:
        ConfigError: its attention is not plain causal attention.
    """
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(f"the student has layers of type {sorted(kinds)}: set batch.packing=false for it")
    if device.type == "cuda" and is_flash_attn_2_available():
        model.set_attn_implementation("flash_attention_2")
        return
    AttentionInterface.register(GROUPED, packed_attention)
    AttentionMaskInterface.register(GROUPED, _mask)
    model.set_attn_implementation(GROUPED)


def packed_attention(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_row: PackedRow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each rollout of the row; with a mask (a padded batch) transformers' own.

    Returns ``[B, S, H, D]`` as every attention function of transformers does.
    """
    if packed_row is None:
        if attention_mask is None:
            raise ConfigError(
                f"{type(module).__name__} does not hand its arguments on to the attention: set batch.packing=false"
            )
        output, _ = sdpa_attention_forward(
            module, query_BHSD, key_BHSD, value_BHSD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    if kwargs.get("sliding_window") is not None or kwargs.get("softcap") is not None:
        raise ConfigError("packed rows know plain causal attention only: set batch.packing=false")
    parts, shared_heads = [], key_BHSD.shape[1] < query_BHSD.shape[1]
    for places_bT in packed_row.groups:
        # [H, b, T, D] -> [b, H, T, D]. What follows a rollout's end is invisible to it: attention is causal.
        query, key, value = (x[0][:, places_bT].transpose(0, 1) for x in (query_BHSD, key_BHSD, value_BHSD))
        out_bHTD = scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=shared_heads,
        )
        parts.append(out_bHTD.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[packed_row.inverse_S][None], None


def _mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """None for a packed row, which comes without a mask; never None for a padded batch."""
    if attention_mask is None:
        return None
    mask: Tensor = sdpa_mask(*args, attention_mask=attention_mask, **{**kwargs, "allow_is_causal_skip": False})
    return mask
