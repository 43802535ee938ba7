"""Which rollouts of one prompt have it computed once, and which rollouts share a row: pure functions of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rgopd.teacher.items import ScoreItem

FLOPS_A_BYTE = 200.0
"""Arithmetic that a GPU does in the time it moves a byte: 600 TFLOP/s against 3 TB/s."""
FLOPS_A_LAUNCH = 2.5e9
"""And in the time that a small kernel takes to start: 4 microseconds."""
_MERGE_BYTES = 28.0
"""A number of the merged output: two partial ones read in 16 bits, widened, weighed, added, written."""
_MERGE_LAUNCHES = 12
"""Second attention and merge, a layer."""


@dataclass(frozen=True)
class BodySize:
    """What the decision needs to know of a decoder."""

    parameters: int
    """Of the layers that a token goes through."""
    layers: int
    width: int
    """Heads times their dimension."""

    @classmethod
    def of(cls, decoder: Any) -> BodySize:
        """Of a transformers decoder; an expert model's parameters all count, which leans towards sharing."""
        config = decoder.config.get_text_config()
        heads = int(config.num_attention_heads)
        width = heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        embedding = decoder.get_input_embeddings().weight.numel()
        total = sum(p.numel() for p in decoder.parameters())
        return cls(max(0, total - embedding), int(config.num_hidden_layers), width)


def saved_flops(size: BodySize, prompt: int, members: int) -> float:
    """Of a prompt that is computed once for `members` rollouts: its linear layers and its own attention."""
    tokens = prompt - 1  # the last id belongs to each rollout: it predicts its first response id
    attention = 2.0 * size.layers * size.width * tokens * tokens
    return (members - 1) * (2.0 * size.parameters * tokens + attention)


def merging_flops(size: BodySize, response_tokens: int) -> float:
    """What it costs in arithmetic that could be done instead: the attention over the prompt is added to the rest's."""
    return FLOPS_A_BYTE * _MERGE_BYTES * size.layers * size.width * response_tokens


def gain(size: BodySize, prompt: int, members: int, response_tokens: int) -> float:
    """FLOPs that sharing saves; below 0 each rollout is better off with a prompt of its own."""
    return saved_flops(size, prompt, members) - merging_flops(size, response_tokens)


def plan_rows(items: Sequence[ScoreItem], budget: int, size: BodySize | None) -> list[list[list[int]]]:
    """Rows of units of item indices; a unit of several shares its prompt. A row holds at most `budget` tokens, or one
    unit that is larger by itself. Without a `size` nothing is shared.

    The launches of the second attention are paid once a row, so where all gains of a batch do not make up for them
    nothing is shared.
    """
    shared, alone = _shared_and_alone(items, size) if size else ([], list(range(len(items))))
    units = [unit for group in shared for unit in _split(items, group, budget)] + [[i] for i in alone]
    rows: list[tuple[int, list[list[int]]]] = []
    for unit in sorted(units, key=lambda unit: (-unit_tokens(items, unit), unit[0])):
        tokens = unit_tokens(items, unit)
        place = next((n for n, (held, _) in enumerate(rows) if held + tokens <= budget), None)
        if place is None:
            rows.append((tokens, [unit]))
        else:
            held, units_there = rows[place]
            rows[place] = (held + tokens, [*units_there, unit])
    return [units for _, units in rows]


def _shared_and_alone(items: Sequence[ScoreItem], size: BodySize) -> tuple[list[list[int]], list[int]]:
    groups: dict[bytes, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(item.prompt_ids_C.tobytes(), []).append(i)
    shared: list[list[int]] = []
    alone: list[int] = []
    total = 0.0
    for group in groups.values():
        prompt = len(items[group[0]].prompt_ids_C)
        more = gain(size, prompt, len(group), sum(len(items[i].response_ids_T) for i in group))
        if len(group) > 1 and prompt > 1 and more > 0:
            shared.append(group)
            total += more
        else:
            alone += group
    if total <= _MERGE_LAUNCHES * size.layers * FLOPS_A_LAUNCH:
        return [], list(range(len(items)))
    return shared, alone


def unit_tokens(items: Sequence[ScoreItem], unit: Sequence[int]) -> int:
    """Tokens of the forward: the prompt once, and each rollout's response (whose last id predicts nothing)."""
    return len(items[unit[0]].prompt_ids_C) - 1 + sum(len(items[i].response_ids_T) for i in unit)


def _split(items: Sequence[ScoreItem], group: list[int], budget: int) -> list[list[int]]:
    """A group whose responses do not fit one row, in as many parts as it takes: longest first."""
    parts: list[list[int]] = []
    prompt, held = len(items[group[0]].prompt_ids_C) - 1, 0
    for i in sorted(group, key=lambda i: (-items[i].tokens, i)):
        tokens = len(items[i].response_ids_T)
        if not parts or held + tokens > budget:
            parts.append([i])
            held = prompt + tokens
        else:
            parts[-1].append(i)
            held += tokens
    return parts
