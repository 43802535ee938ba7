"""Load a Hugging Face causal LM and take it apart into decoder and vocabulary head, exactly or not at all."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rgopd.common.errors import ConfigError
from rgopd.common.head import AfterHead, after_head
from rgopd.common.models import check_architecture, check_model, check_whole, hub_problem, loading
from rgopd.common.vllm_head import inexact
from rgopd.teacher.engines import EngineInfo, settings_digest
from rgopd.teacher.engines.rows import apply_after

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM in two parts: logits = apply_after(head(decoder(ids).last_hidden_state).float(), after)."""

    decoder: nn.Module
    head: nn.Module
    after: AfterHead


def load_model(config: TeacherConfig) -> tuple[Any, LoadedModel, EngineInfo]:
    """Load `config.model` for scoring: the model, its parts, and what it is.

    Raises:
        ConfigError: the model is missing, is no causal LM, has fewer ids than `shared_vocab_size`, or its
            logits are not those of its decoder and head (an architecture this engine does not know).
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # stderr holds one JSON object a line
    if not config.model:
        raise ConfigError("model: give a Hugging Face folder or id, e.g. --set model=Qwen/Qwen2.5-14B-Instruct")
    check_model(config.model, "model")
    check_teacher_architecture(config)
    is_folder = Path(config.model).is_dir()
    device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    with loading("model", config.model):
        model, told = AutoModelForCausalLM.from_pretrained(
            config.model,
            revision=config.revision or None,
            dtype=_DTYPES.get(config.dtype, "auto"),
            local_files_only=is_folder,
            trust_remote_code=False,
            output_loading_info=True,
        )
    check_whole("model", config.model, told)
    model = model.to(device).eval().requires_grad_(False)
    loaded = take_apart(model)
    _self_check(model, loaded)
    return model, loaded, _info(config, model, device, is_folder)


def check_teacher_architecture(config: TeacherConfig) -> None:
    """Refuse, from its config.json, a teacher that the configured engine cannot score exactly.

    Raises:
        ConfigError: names the setting, the architecture, and what to do.
    """
    from transformers import PretrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        raw, _ = PretrainedConfig.get_config_dict(config.model, revision=config.revision or None)
    except OSError as error:
        raise ConfigError(hub_problem("model", config.model, error)) from error
    quantised = config.engine == "vllm"
    check_architecture(config.model, "model", raw, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, may_be_quantised=quantised)
    dtype = config.dtype if config.dtype != "auto" else str(raw.get("dtype") or raw.get("torch_dtype"))
    kind = str(raw.get("model_type"))
    if config.engine == "vllm" and (reason := inexact(raw, dtype)):
        raise ConfigError(f"model: {config.model} (model_type {kind!r}): {reason}; set engine=transformers")


def take_apart(model: Any) -> LoadedModel:
    """Decoder, head and what comes after it; raises `ConfigError` for a model without them."""
    head, decoder = model.get_output_embeddings(), model.base_model
    if decoder is model:  # of another name than its class says: what holds the embedding
        embedding = model.get_input_embeddings()
        decoder = next((c for c in model.children() if any(m is embedding for m in c.modules())), None)
    if head is None or decoder is None or decoder is head:
        raise ConfigError(f"model: {type(model).__name__} has no decoder and vocabulary head to score with")
    return LoadedModel(decoder, head, after_head(model.config.get_text_config()))


@torch.inference_mode()
def _self_check(model: Any, loaded: LoadedModel) -> None:
    """Refuse to serve numbers that are not the model's own, or that depend on tokens that come after."""
    vocab = model.get_input_embeddings().num_embeddings
    device = next(model.parameters()).device
    ids = torch.randint(vocab, (1, 16), generator=torch.Generator().manual_seed(0)).to(device)
    theirs = model(input_ids=ids, use_cache=False).logits.float()
    padded = torch.cat([ids, ids[:, :3]], dim=1)
    hidden = loaded.decoder(input_ids=padded, use_cache=False).last_hidden_state[:, :16]
    ours = apply_after(loaded.head(hidden).float(), loaded.after)
    # All of these are in the model's dtype, and rounded alike up to the order of sums.
    gap = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
    if not gap < (1e-3 if model.dtype == torch.float32 else 5e-2):
        raise ConfigError(
            f"model: {type(model).__name__} (model_type {model.config.model_type!r}) changes its logits after the head "
            f"or by what follows a token in a way this engine does not know (largest log-prob difference {gap:.3g}); "
            "choose another model"
        )


def _info(config: TeacherConfig, model: Any, device: str, is_folder: bool) -> EngineInfo:
    text = model.config.get_text_config()
    # The head may be wider than the embedding table (padding for tensor parallelism), never usefully so.
    own_vocab = min(model.get_output_embeddings().weight.shape[0], model.get_input_embeddings().num_embeddings)
    if config.shared_vocab_size > own_vocab:
        raise ConfigError(
            f"shared_vocab_size: {config.shared_vocab_size} is more than the model's {own_vocab} ids; "
            "set the smaller of student and teacher"
        )
    vocab = config.shared_vocab_size or own_vocab
    own_context = getattr(text, "max_position_embeddings", None) or config.max_context or 1 << 20
    if config.max_context > own_context:
        raise ConfigError(f"max_context: {config.max_context} is more than the model's {own_context} positions")
    eos = getattr(model.generation_config, "eos_token_id", None) or text.eos_token_id
    eos_ids = eos if isinstance(eos, list) else [eos] if eos is not None else []
    revision = folder_digest(Path(config.model)) if is_folder else getattr(model.config, "_commit_hash", None)
    return EngineInfo(
        engine="transformers",
        model=config.model,
        revision=f"{revision or config.revision or 'unknown'}",
        vocab_size=vocab,
        max_context=config.max_context or own_context,
        max_k=min(config.max_k, vocab),
        eos_token_ids=tuple(eos_ids),
        dtype=str(model.dtype).removeprefix("torch."),
        device=device,
        scoring="gathered",
        settings=settings_digest(config),
    )


def folder_digest(folder: Path) -> str:
    """A digest of a model folder's config and weight files, so that other weights are another revision.

    Whole files up to 64 MiB; of larger ones the size, the first and the last 8 MiB (the first holds the
    safetensors index): seconds rather than minutes for a 30 GB teacher.
    """
    digest = hashlib.sha256()
    span = 8 << 20
    for path in sorted(p for p in folder.iterdir() if p.name == "config.json" or p.suffix in {".safetensors", ".bin"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= 8 * span:
                digest.update(file.read())
            else:
                digest.update(file.read(span))
                file.seek(-span, 2)
                digest.update(file.read())
    return f"sha256:{digest.hexdigest()[:16]}"
