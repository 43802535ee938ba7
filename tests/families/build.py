"""Tiny models of an architecture, from its config alone, beside the demo's tokenizer."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

VOCAB = 102
"""Ids of the demo's tokenizer."""
TOKENIZER = Path(str(files("rgopd.trainer.demo") / "checkpoints" / "student"))

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 128, "n_ctx": 128, "n_inner": 64, "d_model": 32, "n_heads": 4, "n_layers": 2, "ffn_dim": 64,
    "word_embed_proj_dim": 32, "num_layers": 2, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "sliding_window": 4, "state_size": 8,
}  # fmt: skip
"""Names that architectures give their sizes; each takes those that it knows."""


SPREAD = 1.5
"""Standard deviation of the logits: neither uniform nor one-hot."""


def tiny_config(model_type: str, **overrides: Any) -> Any:
    """Its config with the sizes above, as far as it knows them, and the overrides."""
    return CONFIG_MAPPING[model_type](**{**known(model_type, SIZES), **overrides})


def known(model_type: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the sizes that the architecture's config has."""
    cls = CONFIG_MAPPING[model_type]
    names = set(inspect.signature(cls.__init__).parameters) | set(getattr(cls, "__dataclass_fields__", {}))
    return {name: value for name, value in sizes.items() if name in names}


def composed(parts: Mapping[str, tuple[str, dict[str, Any]]], sizes: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A composite config's parts (`text_config`, ...), each with the sizes above, then `sizes`, then its own."""
    return {
        f"{part}_config": {"model_type": kind, **known(kind, SIZES), **known(kind, sizes), **own}
        for part, (kind, own) in parts.items()
    }


def save_tiny(folder: Path, model_type: str, **overrides: Any) -> Path:
    """A Hugging Face folder of the architecture with random weights and the demo's tokenizer.

    The weights are spread wider than an initialisation, so that distributions are not near uniform, and no bias is 0.
    """
    torch.manual_seed(0)
    config = tiny_config(model_type, **overrides)
    composite = config.get_text_config() is not config and model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    # Whole, as its checkpoints are: the causal language model of some is their text part alone.
    auto = AutoModelForImageTextToText if composite else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        language = getattr(model, "language_model", None)  # of a composite one, a whole language model or a body
        scored = model if getattr(language, "lm_head", None) is None else language
        head = scored.get_output_embeddings()
        ids = torch.randint(4, VOCAB, (2, 24))
        for _ in range(2):  # a tied head changes what it multiplies
            head.weight.mul_(SPREAD / scored.eval()(input_ids=ids).logits.std())
    model.generation_config.eos_token_id = 3
    model.save_pretrained(folder)
    for file in TOKENIZER.glob("*token*"):
        shutil.copy(file, folder)
    for file in TOKENIZER.glob("chat_template*"):
        shutil.copy(file, folder)
    return folder
