"""Decoder forwards: hidden states that predict the response ids, with a group's prompt computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rgopd.common.kv_cache import cache_argument, cache_of
from rgopd.teacher.items import Int, ScoreItem


def plan_batches(items: Sequence[ScoreItem], budget: int, share: bool) -> Iterator[tuple[list[int], bool]]:
    """(indices, shares a prompt) of each forward: longest first, cut where padded tokens would pass `budget`.

    Rollouts of one prompt go together where computing it once saves a quarter of their tokens.
    """
    rest: list[int] = []
    for group in _by_prompt(items) if share else []:
        lengths = [items[i].tokens for i in group]
        prompt = len(items[group[0]].prompt_ids_C)
        if 4 * (len(group) - 1) * (prompt - 1) < sum(lengths):
            rest += group
            continue
        for batch in _cut(items, group, budget):
            yield batch, len(batch) > 1
    for batch in _cut(items, rest if share else range(len(items)), budget):
        yield batch, False


def _by_prompt(items: Sequence[ScoreItem]) -> Iterator[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(item.prompt_ids_C.tobytes(), []).append(i)
    yield from groups.values()


def _cut(items: Sequence[ScoreItem], indices: Sequence[int], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in sorted(indices, key=lambda i: -items[i].tokens):
        # Sorted, so the first of a batch is its longest and sets the padded width.
        if batch and (len(batch) + 1) * items[batch[0]].tokens > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def response_states(decoder: nn.Module, items: Sequence[ScoreItem], device: torch.device, shared: bool) -> Tensor:
    """Hidden states [R, H] of the positions that predict the items' response ids, item after item."""
    hidden_BLH = _after_shared_prompt(decoder, items, device) if shared else None
    starts = [0] * len(items)
    if hidden_BLH is None:
        ids_BL = _padded([item.input_ids for item in items], device)
        # No attention mask: padding is on the right, and no real position of a causal model looks there.
        hidden_BLH = decoder(input_ids=ids_BL, use_cache=False).last_hidden_state
        starts = [len(item.prompt_ids_C) - 1 for item in items]
    rows = [hidden_BLH[b, s : s + len(i.response_ids_T)] for b, (s, i) in enumerate(zip(starts, items, strict=True))]
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def _after_shared_prompt(decoder: nn.Module, items: Sequence[ScoreItem], device: torch.device) -> Tensor | None:
    """Hidden states [B, T, H] from the prompt's last id on; its first C - 1 are computed once, for all.

    None where the model's cache cannot be repeated for a group.
    """
    prompt_C = items[0].prompt_ids_C
    cache = cache_of(decoder(input_ids=_padded([prompt_C[:-1]], device), use_cache=True))
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.batch_repeat_interleave(len(items))
    ids_BL = _padded([np.concatenate([prompt_C[-1:], item.response_ids_T[:-1]]) for item in items], device)
    output = decoder(input_ids=ids_BL, use_cache=True, **cache_argument(decoder, cache))
    hidden_BLH: Tensor = output.last_hidden_state
    return hidden_BLH


def _padded(rows: Sequence[Int], device: torch.device) -> Tensor:
    ids_BL = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for padded, row in zip(ids_BL, rows, strict=True):
        padded[: len(row)] = row
    return torch.from_numpy(ids_BL).to(device)
