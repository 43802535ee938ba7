"""What an architecture does to its logits after the vocabulary head, read off its config: one description for all.

    logits = soft_cap * tanh(scale * (W h + b) / soft_cap)        without the tanh where soft_cap is 0

Teacher, trainer and (through the model itself) sampler must compute the same distribution. Multipliers of embeddings,
residuals and attention are no part of this: they are in the decoder's own forward. Each service compares what follows
from this with the model's own logits when it loads, so an architecture that is missing here is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AfterHead:
    """What follows the head's product and bias."""

    scale: float = 1.0
    """A factor: Granite's 1 / logits_scaling, Cohere's logit_scale, Falcon-H1's lm_head_multiplier."""
    soft_cap: float = 0.0
    """Logits are squashed into (-soft_cap, soft_cap): Gemma's final_logit_softcapping. 0: none."""


def after_head(config: Any) -> AfterHead:
    """Of a Hugging Face text config (an object with its keys as attributes)."""
    model_type = getattr(config, "model_type", "")
    for name, divides in _SCALES.get(model_type, _COMMON_SCALES).items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value:
            return AfterHead(scale=1.0 / value if divides else float(value))
    for name in _SOFT_CAPS.get(model_type, _COMMON_SOFT_CAPS):
        if cap := getattr(config, name, None):
            return AfterHead(soft_cap=float(cap))
    return AfterHead()


_COMMON_SCALES = {"logits_scaling": True, "logit_scale": False, "lm_head_multiplier": False}
"""Config key: whether the logits are divided by it (else multiplied)."""
_SCALES: dict[str, dict[str, bool]] = {
    "hyperclovax": {"logits_scaling": False},  # the same name as Granite's, the other way round
    "inkling_text": {"logits_mup_width_multiplier": True},
    "mpt": {},  # its config has a logit_scale that transformers never applies
}
_COMMON_SOFT_CAPS = ("final_logit_softcapping",)
_SOFT_CAPS: dict[str, tuple[str, ...]] = {
    "recurrent_gemma": ("logits_soft_cap",),
    "xlstm": ("output_logit_soft_cap",),
}
