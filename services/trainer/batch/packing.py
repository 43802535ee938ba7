"""Several rollouts in one row without padding: positions per rollout, and attention that stays inside each.

Everything of the body that works a token at a time (projections, MLP, norms: nearly all of its time) then sees real
tokens alone. Attention is computed by one variable-length kernel on a GPU (`varlen`), and elsewhere, or where that
kernel does not know what the model wants, by scaled-dot-product attention over groups of rollouts of like length: a
mask of the whole row would cost the square of its length.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from rgopd.common.errors import ConfigError
from rgopd.trainer.batch.varlen import Kernel, kernel_for

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
    longest: int
    position_ids_1S: Tensor
    """int64, from 0 in each rollout."""
    cumulative_R1: Tensor
    """int32: where each rollout starts, and S: what variable-length kernels call cu_seqlens."""
    asked: set[str] = field(default_factory=set, compare=False)
    """Kinds of attention that worked on it, and by what; compiled layers do not say."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> PackedRow:
        """For rollouts of these lengths, in their order in the row."""
        return cls(
            tuple(lengths),
            max(lengths),
            torch.cat([torch.arange(n) for n in lengths])[None],
            torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        )

    def to(self, device: torch.device) -> PackedRow:
        """The same on another device."""
        places = self.position_ids_1S.to(device), self.cumulative_R1.to(device)
        return PackedRow(self.lengths, self.longest, *places, self.asked)

    @cached_property
    def groups(self) -> tuple[Tensor, ...]:
        """int64 [b, T] a group: the places in the row of its b rollouts, right-padded with their own last place."""
        starts, lengths = [0, *itertools.accumulate(self.lengths)], self.lengths
        return tuple(
            torch.stack([starts[m] + torch.arange(lengths[some[0]]).clamp(max=lengths[m] - 1) for m in some]).to(
                self.position_ids_1S.device
            )
            for some in _like_lengths(lengths)
        )

    @cached_property
    def inverse_S(self) -> Tensor:
        """int64: where each token of the row is in the groups' outputs laid end to end."""
        starts = [0, *itertools.accumulate(self.lengths)]
        inverse_S, offset = torch.empty(starts[-1], dtype=torch.int64), 0
        for members in _like_lengths(self.lengths):
            width = self.lengths[members[0]]
            for place, member in enumerate(members):
                span = torch.arange(self.lengths[member])
                inverse_S[starts[member] + span] = offset + place * width + span
            offset += width * len(members)
        return inverse_S.to(self.position_ids_1S.device)

    @property
    def longest_T(self) -> Tensor:
        """int64: the places of the longest rollout."""
        index = max(range(len(self.lengths)), key=lambda i: self.lengths[i])
        start = sum(self.lengths[:index])
        return torch.arange(start, start + self.lengths[index], device=self.position_ids_1S.device)

    def arguments(self) -> dict[str, Any]:
        """What a decoder's forward passes on to its attention."""
        return {
            "position_ids": self.position_ids_1S,
            "cu_seq_lens_q": self.cumulative_R1,
            "cu_seq_lens_k": self.cumulative_R1,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
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


def enable_packing(model: Any) -> None:
    """Give a causal LM the attention that packed rows need; padded batches still work.

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
    _note(packed_row, type(module).__name__)
    scale = query_BHSD.shape[-1] ** -0.5 if scaling is None else scaling
    if dropout == 0.0 and (done := _at_once(query_BHSD, key_BHSD, value_BHSD, attention_mask, packed_row, scale)):
        return done[0], None
    return _by_groups(
        module, query_BHSD, key_BHSD, value_BHSD, attention_mask, packed_row, dropout=dropout, scaling=scaling, **kwargs
    ), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a walk in Python, other for every row
def _by_groups(
    module: nn.Module,
    query_1HSD: Tensor,
    key_1HSD: Tensor,
    value_1HSD: Tensor,
    attention_mask: Tensor | RowMask | None,
    packed_row: PackedRow,
    *,
    dropout: float,
    scaling: float | None,
    **kwargs: Any,
) -> Tensor:
    parts, shared_heads = [], key_1HSD.shape[1] < query_1HSD.shape[1]
    for places_bT in packed_row.groups:
        # [H, b, T, D] -> [b, H, T, D]. What follows a rollout's end is invisible to it: attention is causal.
        query, key, value = (x[0][:, places_bT].transpose(0, 1) for x in (query_1HSD, key_1HSD, value_1HSD))
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
    return torch.cat(parts)[packed_row.inverse_S][None]


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
    _note(packed_row, type(module).__name__)
    if set(kwargs) <= _CAPPED and kwargs.get("softcap") and kwargs.get("scaling") and not kwargs.get("dropout"):
        of_scores = (packed_row, kwargs["scaling"], kwargs["softcap"])
        if done := _at_once(query_BHSD, key_BHSD, value_BHSD, attention_mask, *of_scores):
            return done[0], None
    return _by_groups_eager(own, module, query_BHSD, key_BHSD, value_BHSD, attention_mask, packed_row, **kwargs), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _by_groups_eager(
    own: Callable[..., tuple[Tensor, Any]],
    module: nn.Module,
    query_1HSD: Tensor,
    key_1HSD: Tensor,
    value_1HSD: Tensor,
    attention_mask: Tensor | RowMask | None,
    packed_row: PackedRow,
    **kwargs: Any,
) -> Tensor:
    parts = []
    for places_bT in packed_row.groups:
        query, key, value = (x[0][:, places_bT].transpose(0, 1) for x in (query_1HSD, key_1HSD, value_1HSD))
        seen_11TT = _within(attention_mask, places_bT)
        if seen_11TT is None:
            width = places_bT.shape[1]
            seen_11TT = torch.ones(1, 1, width, width, dtype=torch.bool, device=query.device).tril()
        hidden_11TT = torch.zeros_like(seen_11TT, dtype=query.dtype)
        hidden_11TT.masked_fill_(~seen_11TT, torch.finfo(query.dtype).min)
        parts.append(own(module, query, key, value, hidden_11TT, **kwargs)[0].flatten(0, 1))
    return torch.cat(parts)[packed_row.inverse_S][None]


_CAPPED = {"dropout", "scaling", "softcap", "sliding_window", "position_ids", "use_cache", "cache_position"}
_CAPPED |= {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "output_attentions", "is_causal"}
"""What a model may hand to its own attention that says nothing of the scores beyond scale, cap and window."""


def _at_once(
    query_1HSD: Tensor,
    key_1HSD: Tensor,
    value_1HSD: Tensor,
    mask: Tensor | RowMask | None,
    row: PackedRow,
    scale: float,
    cap: float = 0.0,
) -> tuple[Tensor] | None:
    """``[1, S, H, D]`` by a variable-length kernel; None where there is none, or none for what is asked."""
    kernel: Kernel | None = kernel_for(query_1HSD)
    window = 0 if mask is None or kernel is None else _window(mask, row) if isinstance(mask, RowMask) else None
    if kernel is None or window is None or not kernel.fits(window, cap):
        return None
    _note(row, kernel.name)
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HSD, key_1HSD, value_1HSD))
    return (kernel.run(query, key, value, row.cumulative_R1, row.longest, scale, window, cap)[None],)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _window(mask: RowMask, row: PackedRow) -> int | None:
    return mask.window(row)


def _note(row: PackedRow, what: str) -> None:
    """Not in a compiled graph, where a growing set would be a reason to compile again."""
    if not torch.compiler.is_compiling():
        row.asked.add(what)


class RowMask:
    """Which tokens of a packed row see which, for one kind of layer: asked group by group, never for the whole row.

    Args:
        function: transformers' mask function, over places in the row.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.groups: dict[int, Tensor | None] = {}
        self._windows: dict[int, int | None] = {}

    def window(self, row: PackedRow) -> int | None:
        """How many tokens one sees, itself included; 0: all before it; None: something else than a sliding window.

        Read off what the last two tokens of the longest rollout see: the last tokens, and as many each.
        """
        if (key := id(row)) not in self._windows:
            places_T = row.longest_T
            seen_2T = self._seen(places_T[-2:], places_T)[0, 0]
            *_, before, last = [0, *seen_2T.sum(-1).tolist()]
            tail = bool(seen_2T[-1, len(places_T) - last :].all())
            whole = last == len(places_T)
            self._windows[key] = 0 if whole else last if tail and before == last else None
        return self._windows[key]

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
