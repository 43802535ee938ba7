"""Many rollouts in one row without padding, prompts of groups computed once: how a GPU is filled.

The row holds the prompts of sharing groups, then their responses, then rollouts by themselves. One attention is causal
within each of these segments; a second lets each group's responses see their prompt, and is added to the first by the
normalisers of both. So neither keys are copied for a group nor does anything need a mask.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from rgopd.common.errors import ConfigError
from rgopd.teacher.engines.forward import response_states
from rgopd.teacher.engines.sharing import BodySize
from rgopd.teacher.engines.varlen import add, attend, disagreement
from rgopd.teacher.items import Int, ScoreItem, Scoring

log = logging.getLogger(__name__)

NAME = "rgopd_segments"
"""Our attention among those of transformers."""


@dataclass(frozen=True)
class Layout:
    """How a row of N tokens falls into segments. The first of them, one a group, are the prompts that are shared."""

    ids_1N: Tensor
    positions_1N: Tensor
    bounds_S1: Tensor
    longest: int
    responses: slice
    """The tokens that see a prompt besides their own segment: groups one after the other, as their prompts are."""
    response_bounds_G1: Tensor
    longest_group: int
    prompt_bounds_G1: Tensor
    longest_prompt: int
    rows_R: Tensor
    """Where the hidden states are that predict the response ids, item after item."""

    @classmethod
    def of(cls, items: Sequence[ScoreItem], units: Sequence[Sequence[int]], device: torch.device) -> Layout:
        """Of a row of `plan_rows`, whose indices point into `items`: all of them, in any order."""
        groups = [unit for unit in units if len(unit) > 1]
        segments: list[Int] = [items[unit[0]].prompt_ids_C[:-1] for unit in groups]
        starts = [0] * len(segments)
        where: dict[int, tuple[int, int]] = {}  # item: (segment, where its response rows begin there)
        for unit in groups:
            for i in unit:
                where[i] = (len(segments), 0)
                starts.append(len(items[i].prompt_ids_C) - 1)
                segments.append(np.concatenate([items[i].prompt_ids_C[-1:], items[i].response_ids_T[:-1]]))
        for unit in units:
            if len(unit) == 1:
                where[unit[0]] = (len(segments), len(items[unit[0]].prompt_ids_C) - 1)
                starts.append(0)
                segments.append(items[unit[0]].input_ids[:-1])
        bounds = [0, *itertools.accumulate(map(len, segments))]
        prompts = bounds[: len(groups) + 1]
        responses = [sum(len(items[i].response_ids_T) for i in unit) for unit in groups]
        rows = [
            bounds[segment] + offset + np.arange(len(item.response_ids_T))
            for item, (segment, offset) in zip(items, (where[i] for i in range(len(items))), strict=True)
        ]
        positions = np.concatenate([np.arange(len(s)) + start for s, start in zip(segments, starts, strict=True)])
        return cls(
            _to(device, np.concatenate(segments).astype(np.int64))[None],
            _to(device, positions)[None],
            _to(device, np.array(bounds, np.int32)),
            max(map(len, segments)),
            slice(prompts[-1], prompts[-1] + sum(responses)),
            _to(device, np.array([0, *itertools.accumulate(responses)], np.int32)),
            max(responses, default=0),
            _to(device, np.array(prompts, np.int32)),
            max(map(len, segments[: len(groups)]), default=0),
            _to(device, np.concatenate(rows)),
        )


def packed_states(
    decoder: nn.Module, items: Sequence[ScoreItem], units: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    """Hidden states [R, H] of the positions that predict the items' response ids, item after item."""
    layout = Layout.of(items, units, device)
    output = decoder(input_ids=layout.ids_1N, position_ids=layout.positions_1N, use_cache=False, segments=layout)
    hidden_RH: Tensor = output.last_hidden_state[0][layout.rows_R]
    return hidden_RH


def segment_attention(
    module: nn.Module,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    segments: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers wants one: [1, N, H, D].

    Raises:
        ConfigError: the model did not hand the segments on, or its attention is more than scores and softmax.
    """
    strange = [k for k in ("softcap", "sliding_window", "s_aux", "position_bias") if kwargs.get(k) is not None]
    if segments is None or attention_mask is not None or strange or not getattr(module, "is_causal", True):
        raise ConfigError(f"{type(module).__name__} is no plain causal attention ({', '.join(strange) or 'segments'})")
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HND, key_1HND, value_1HND))
    scale = scaling or query.shape[-1] ** -0.5
    bounds, longest = segments.bounds_S1, (segments.longest, segments.longest)
    output, logs = attend(query, key, value, bounds, bounds, longest, causal=True, scale=scale)
    if segments.longest_group:
        some, prompts = segments.responses, slice(0, segments.responses.start)
        seen, seen_logs = attend(
            query[some], key[prompts], value[prompts], segments.response_bounds_G1, segments.prompt_bounds_G1,
            (segments.longest_group, segments.longest_prompt), causal=False, scale=scale,
        )  # fmt: skip
        merged = add(output[some], logs[:, some], seen, seen_logs)
        output = torch.cat([output[prompts], merged, output[some.stop :]])
    return output[None], None


@torch.inference_mode()
def enable(decoder: Any, device: torch.device, vocab_size: int) -> BodySize | None:
    """Give a decoder this attention, if its own answers are the same with it; None, and as it was, where not."""
    config = decoder.config.get_text_config()
    before = getattr(config, "_attn_implementation", None)
    items = _probe(vocab_size)
    try:
        size = BodySize.of(decoder)
        if not (worst := disagreement(device, decoder.dtype)) < (1e-4 if decoder.dtype == torch.float32 else 0.05):
            raise ConfigError(f"attention by segments differs by {worst:.2g}")
        wanted = torch.cat([response_states(decoder, [item], device, shared=False) for item in items])
        AttentionInterface.register(NAME, segment_attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        decoder.set_attn_implementation(NAME)
        found = packed_states(decoder, items, [[0, 1, 2], [3], [4, 5]], device)
        worst = float((found.float() - wanted.float()).norm() / wanted.float().norm())
        if not worst < (1e-4 if wanted.dtype == torch.float32 else 3e-2):
            raise ConfigError(f"hidden states differ by {worst:.2g} of their norm")
    except (ConfigError, ImportError, AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        log.info("rollouts are padded, not packed, for %s: %s", type(decoder).__name__, str(error).split("\n")[0])
        if before is not None and config._attn_implementation != before:
            decoder.set_attn_implementation(before)
        return None
    return size


def _probe(vocab_size: int) -> list[ScoreItem]:
    """Two groups of one prompt each and a rollout between them, of unequal lengths."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, vocab_size, n, dtype=np.int32) for n in (9, 4, 6)]
    shape = [(0, 5), (0, 1), (0, 12), (1, 7), (2, 3), (2, 8)]
    return [
        ScoreItem(str(n), prompts[p], rng.integers(0, vocab_size, length, dtype=np.int32), Scoring("none", 0))
        for n, (p, length) in enumerate(shape)
    ]


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _to(device: torch.device, array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array).to(device)
