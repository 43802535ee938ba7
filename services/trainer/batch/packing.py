"""Several rollouts in one row without padding: positions per rollout, and attention that stays inside each.

Everything of the body that works a token at a time (projections, MLP, norms: nearly all of its time) then sees real
tokens alone. Attention is computed by flash-attn's variable-length kernel where that is installed (the model gets the
cumulative lengths that it asks for), and elsewhere by scaled-dot-product attention over groups of rollouts of like
length: a mask of the whole row would cost the square of its length.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.utils import is_flash_attn_2_available

from rgopd.common.errors import ConfigError

GROUPED, GROUPED_EAGER = "rgopd_packed", "rgopd_packed_eager"
"""Names of our attention among those of transformers: for models that would use SDPA, and for those that cannot."""
_NAMES = {"sdpa": GROUPED, "eager": GROUPED_EAGER}

PACKABLE = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers in which tokens see each other through attention alone."""

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
    asked: set[str] = field(default_factory=set, compare=False)
    """Kinds of attention that worked on it."""

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
            self.asked,
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

    Attention that differs from plain causal attention in its mask alone (sliding windows) or in what the model's own
    function does with the scores (soft-capping, sinks) is computed by the model's own function, group by group.

    Raises:
        ConfigError: its tokens see each other by other means than attention (recurrent states, convolutions), or its
            attention cannot be exchanged.
    """
    config = model.config.get_text_config()
    if strange := layer_kinds(config) - PACKABLE:
        raise ConfigError(f"layers of type {', '.join(sorted(strange))} are not plain attention within a rollout")
    own = config._attn_implementation
    if device.type == "cuda" and own == "sdpa" and is_flash_attn_2_available():
        model.set_attn_implementation("flash_attention_2")
        return
    if own not in _NAMES:
        raise ConfigError(f"attention of kind {own!r} is not known to packed rows")
    for name, attention, mask in ((GROUPED, packed_attention, _mask), (GROUPED_EAGER, packed_eager, _mask_eager)):
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, mask)
    try:
        model.set_attn_implementation(_NAMES[own])
    except ValueError as error:
        raise ConfigError(f"its attention cannot be exchanged: {error}") from error


def layer_kinds(config: Any) -> set[str]:
    """The `layer_types` of a text config; full attention where it names none."""
    return set(getattr(config, "layer_types", None) or ["full_attention"])


def packed_attention(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | RowMask | None,
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
        mask = _padded_mask(module, attention_mask)
        output, _ = sdpa_attention_forward(
            module, query_BHSD, key_BHSD, value_BHSD, mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    if kwargs.get("position_bias") is not None or kwargs.get("softcap") is not None:
        raise ConfigError("its attention adds a bias by position, which packed rows do not know")
    if attention_mask is None and kwargs.get("sliding_window") is not None:
        raise ConfigError("its windows are in no mask that packed rows could read")
    packed_row.asked.add(type(module).__name__)
    parts, shared_heads = [], key_BHSD.shape[1] < query_BHSD.shape[1]
    for places_bT in packed_row.groups:
        # [H, b, T, D] -> [b, H, T, D]. What follows a rollout's end is invisible to it: attention is causal.
        query, key, value = (x[0][:, places_bT].transpose(0, 1) for x in (query_BHSD, key_BHSD, value_BHSD))
        seen_11TT = _within(attention_mask, places_bT)
        if seen_11TT is None:
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
            continue
        out_bTHD, _ = sdpa_attention_forward(
            module, query, key, value, seen_11TT, dropout=dropout, scaling=scaling, **kwargs
        )
        parts.append(out_bTHD.flatten(0, 1))
    return torch.cat(parts)[packed_row.inverse_S][None], None


def packed_eager(
    module: nn.Module,
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | RowMask | None,
    *,
    packed_row: PackedRow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """`packed_attention` through the model's own eager function, which knows its soft-capping and its sinks."""
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise ConfigError(f"{type(module).__name__} has no attention function of its own to go through")
    if packed_row is None:
        output: tuple[Tensor, Any] = own(
            module, query_BHSD, key_BHSD, value_BHSD, _padded_mask(module, attention_mask), **kwargs
        )
        return output
    packed_row.asked.add(type(module).__name__)
    parts = []
    for places_bT in packed_row.groups:
        query, key, value = (x[0][:, places_bT].transpose(0, 1) for x in (query_BHSD, key_BHSD, value_BHSD))
        seen_11TT = _within(attention_mask, places_bT)
        if seen_11TT is None:
            width = places_bT.shape[1]
            seen_11TT = torch.ones(1, 1, width, width, dtype=torch.bool, device=query.device).tril()
        hidden_11TT = torch.zeros_like(seen_11TT, dtype=query.dtype)
        hidden_11TT.masked_fill_(~seen_11TT, torch.finfo(query.dtype).min)
        parts.append(own(module, query, key, value, hidden_11TT, **kwargs)[0].flatten(0, 1))
    return torch.cat(parts)[packed_row.inverse_S][None], None


class RowMask:
    """Which tokens of a packed row see which, for one kind of layer: asked group by group, never for the whole row.

    Args:
        function: transformers' mask function, over places in the row.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.groups: dict[int, Tensor | None] = {}

    def of(self, places_bT: Tensor) -> Tensor | None:
        """[1, 1, T, T] bool, of any rollout of a group: they start at 0, and are as long as the first or shorter.

        None where the last token sees all before it, so that no window is shorter than the rollouts.
        """
        if (key := id(places_bT)) not in self.groups:  # a row's groups live as long as it; every layer asks
            places_T = places_bT[0]
            whole = bool(self._seen(places_T[-1:], places_T).all())
            self.groups[key] = None if whole else self._seen(places_T, places_T)
        return self.groups[key]

    def _seen(self, queries_Q: Tensor, keys_T: Tensor) -> Tensor:
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=keys_T.device)
        seen = self.function(zero, zero, queries_Q[None, None, :, None], keys_T[None, None, None, :])
        return seen.expand(1, 1, len(queries_Q), len(keys_T))


def _within(mask: Tensor | RowMask | None, places_bT: Tensor) -> Tensor | None:
    if isinstance(mask, RowMask):
        return mask.of(places_bT)
    if mask is not None:
        raise ConfigError("it makes masks of its own for its attention, which packed rows do not know")
    return None


def _padded_mask(module: nn.Module, mask: Tensor | RowMask | None) -> Tensor:
    if mask is None or isinstance(mask, RowMask):
        raise ConfigError(
            f"{type(module).__name__} does not hand its arguments on to the attention: set batch.packing=false"
        )
    return mask


def _mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | RowMask | None:
    """A padded batch's mask, never None; of a packed row, which comes without one, None where all layers see all."""
    if attention_mask is None:
        return _row_mask(kwargs)
    mask: Tensor = sdpa_mask(*args, attention_mask=attention_mask, **{**kwargs, "allow_is_causal_skip": False})
    return mask


def _mask_eager(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | RowMask | None:
    """The same as numbers to add to the scores."""
    if attention_mask is None:
        return _row_mask(kwargs)
    mask: Tensor = eager_mask(*args, attention_mask=attention_mask, **{**kwargs, "allow_is_causal_skip": False})
    return mask


def _row_mask(kwargs: dict[str, Any]) -> RowMask | None:
    config: Any = kwargs.get("config")
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    plain = layer_kinds(config) == {"full_attention"} and not any(windows)
    return None if plain else RowMask(kwargs["mask_function"])
