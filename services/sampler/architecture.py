"""Which engine samples from a student, and whether it can: from config.json, before anything is loaded."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_architecture, hub_problem, loading, other_parts
from rgopd.common.vllm_head import cannot_reload, inexact
from rgopd.sampler.config import EngineName, SamplerConfig

log = logging.getLogger(__name__)


def engine_here(config: SamplerConfig) -> EngineName:
    """The engine in force on this machine; `auto` leaves to transformers what vLLM cannot do, and warns."""
    engine = _picked(config)
    if engine == "vllm" and config.engine == "auto" and (reason := vllm_problem(config, _read(config.student))):
        log.warning("student: %s (%s): transformers samples, about ten times as slowly", config.student, reason)
        return "transformers"
    if engine == "transformers" and torch.cuda.is_available() and config.device != "cpu":
        how = "set sampler.engine=auto" if _vllm_is_here() else "pip install 'rgopd[vllm]'"
        log.warning("transformers samples on a GPU: vLLM does it about ten times as fast; %s", how)
    return engine


def check_student_architecture(config: SamplerConfig) -> None:
    """Refuse, from its config.json, a student that this engine cannot sample from.

    Raises:
        ConfigError: names the setting, the architecture, and what to do.
    """
    raw, student, engine = _read(config.student), config.student, _picked(config)
    check_architecture(student, "student", raw, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, sampled=True)
    if engine == "vllm" and config.engine != "auto" and (reason := vllm_problem(config, raw)):
        raise ConfigError(
            f"student: {student} (model_type {raw.get('model_type')!r}): {reason}; set sampler.engine=transformers"
        )


def vllm_problem(config: SamplerConfig, raw: dict[str, Any]) -> str:
    """Why vLLM would not sample exactly from what is trained of a student (docs/decisions/157); empty: it does.

    Args:
        raw: its config.json. The sampler looks again at the model that vLLM made of it
            (`SamplingExtension.cannot_reload`).
    """
    if raw.get("text_config") or other_parts(raw):
        return "vLLM holds a model of more than text under other names than its trained weights have"
    if reason := inexact(raw, config.dtype):
        return reason
    if config.lora_rank:  # adapters need no reload
        return ""
    with loading("student", config.student):
        hf: Any = AutoConfig.from_pretrained(config.student, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(hf)
    experts = any("Experts" in type(module).__name__ for module in model.modules())
    head = model.get_output_embeddings()
    tied_bias = getattr(head, "bias", None) is not None and head.weight is model.get_input_embeddings().weight
    cpu = not torch.cuda.is_available()
    reason = cannot_reload(hf.model_type, experts=experts, cpu=cpu, tied_bias=tied_bias)
    return f"{reason}, except as adapters (train.lora.publish=adapter)" if reason else ""


def _read(student: str) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = PretrainedConfig.get_config_dict(student)[0]
    except OSError as error:
        raise ConfigError(hub_problem("student", student, error)) from error
    return raw


def _picked(config: SamplerConfig) -> EngineName:
    return config.pick_engine(cuda=torch.cuda.is_available(), vllm=_vllm_is_here())


def _vllm_is_here() -> bool:
    return importlib.util.find_spec("vllm") is not None
