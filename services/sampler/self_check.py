"""Before it serves: does decoding with a cache, batched and left-padded, give the model's own log-probs?

Padding spoils some recurrent states and positions; such a model is sampled in batches of prompts of equal length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rgopd.common.errors import ConfigError

log = logging.getLogger(__name__)

Decode = Callable[[Sequence[NDArray[np.int32]], Sequence[NDArray[np.int32]]], Tensor]
"""(prompts, continuations of T tokens each) -> logits [B, T+1, V] of the tokens after prompt and continuation, as
`generate` would make them: one prefill, T single steps."""

_EXACT = 1e-4
_LOW_PRECISION = {"alone": 0.3, "padded": 0.1}
"""Largest mean difference of a log-prob, in float32 and in 16 bits. Batching by length costs time alone, so there the
limit is near what rounding does; a model is refused only for what rounding cannot do."""


@torch.inference_mode()
def can_pad(
    model: Any,
    decode: Decode,
    vocab_size: int,
    *,
    setting: str = "student",
    instead: str = "set sampler.engine=vllm, or choose another model",
    then: str = "prompts are batched by length",
) -> bool:
    """Whether prompts of unequal lengths may be decoded as one batch.

    Args:
        setting: what names the model, in messages.
        instead: what to do about a refused one.
        then: what follows where they may not.

    Raises:
        ConfigError: even alone, decoding with a cache is not what the model says of the whole sequence.
    """
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, vocab_size, n, dtype=np.int32) for n in (11, 4, 7)]
    continuations = [rng.integers(0, vocab_size, 3, dtype=np.int32) for _ in prompts]
    wanted = [_plain(model, p, c) for p, c in zip(prompts, continuations, strict=True)]
    limits = dict.fromkeys(_LOW_PRECISION, _EXACT) if model.dtype == torch.float32 else _LOW_PRECISION
    name = f"{type(model).__name__} (model_type {model.config.model_type!r})"
    try:
        alone = [decode([p], [c])[0] for p, c in zip(prompts, continuations, strict=True)]
        gap = max(map(_gap, alone, wanted))
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"{setting}: {name} cannot be decoded token by token with a cache: {error}") from error
    if not gap < limits["alone"]:
        raise ConfigError(
            f"{setting}: {name} gives other log-probs when it is decoded with a cache than for the whole sequence "
            f"({gap:.3g} nats on average), and cannot be sampled from exactly: {instead}"
        )
    try:
        gap = max(map(_gap, decode(prompts, continuations), wanted))
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, NotImplementedError) as error:
        log.warning("%s cannot be decoded left-padded (%s): %s", name, error, then)
        return False
    if not gap < limits["padded"]:
        log.warning("%s is changed by left padding: %s", name, then)
        return False
    return True


def _plain(model: Any, prompt_ids_C: NDArray[np.int32], continuation_T: NDArray[np.int32]) -> Tensor:
    ids = torch.from_numpy(np.concatenate([prompt_ids_C, continuation_T]).astype(np.int64))[None].to(model.device)
    logits_SV: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    return logits_SV[len(prompt_ids_C) - 1 :]


def _gap(found_TV: Tensor, wanted_TV: Tensor) -> float:
    difference = found_TV.float().log_softmax(-1) - wanted_TV.float().log_softmax(-1)
    return float(difference.abs().mean())
