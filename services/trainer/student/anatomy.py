"""Where the parts of a causal language model are, found by what they are and not by what they are called."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_architecture, hub_problem


def check_architecture_of(student: str) -> None:
    """Refuse, from its config.json, a student that cannot be trained.

    Raises:
        ConfigError: names the setting, the architecture, and what to do.
    """
    try:
        raw, _ = PretrainedConfig.get_config_dict(student)
    except OSError as error:
        raise ConfigError(hub_problem("student", student, error)) from error
    check_architecture(student, "student", raw, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def decoder_of(model: Any) -> nn.Module:
    """What turns ids into the hidden states under the head.

    Raises:
        ConfigError: the model has no such part of its own.
    """
    decoder = model.get_decoder()
    if decoder is model:  # it has another name than those that transformers knows: what holds the embedding
        embedding = model.get_input_embeddings()
        holders = [child for child in model.children() if any(part is embedding for part in child.modules())]
        decoder = holders[0] if holders and holders[0] is not embedding else None
    if not isinstance(decoder, nn.Module):
        raise ConfigError(f"student: {type(model).__name__} has no decoder apart from its head; choose another")
    return decoder


def head_of(model: Any) -> nn.Linear:
    """The vocabulary head, possibly tied to the embedding, possibly with a bias.

    Raises:
        ConfigError: there is none, or it is more than a matrix and a bias.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        what = "no vocabulary head" if head is None else f"a head ({type(head).__name__}) that is no linear layer"
        raise ConfigError(f"student: {type(model).__name__} has {what}; choose another model")
    return head


def layers_of(decoder: nn.Module) -> list[nn.Module]:
    """The decoder layers: the entries of the list of modules that holds most of the parameters.

    Empty where there is no such list, or where its entries share parameters (Zamba's repeated block), so that they
    are no units to shard or compile one by one.
    """
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        return []
    layers = [layer for layer in max(lists, key=_size) if next(layer.parameters(), None) is not None]
    uses = Counter(id(parameter) for layer in layers for parameter in {id(p): p for p in layer.parameters()}.values())
    return layers if uses and max(uses.values()) == 1 else []


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
