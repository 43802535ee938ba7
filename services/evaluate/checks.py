"""What is held of a model before it is asked anything: what config.json and the weights' names say, as for every other
service; and, once lm-eval has loaded it, that batches and a cache give the answers that the model itself would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rgopd.common.errors import ConfigError
from rgopd.common.models import at_hand, check_architecture, check_tokenizer, check_whole, loading
from rgopd.common.weight_files import check_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rgopd.evaluate.models import ModelSpec

_NO_ID = 1 << 30


def check_evaluated(spec: ModelSpec) -> None:
    """Refuse, before anything is loaded, what would not answer as itself. Says nothing of servers and .gguf files.

    Raises:
        ConfigError: in one line: no causal language model, quantised where the backend computes without, code of its
            own, weights that are missing or cut off, no tokenizer.
    """
    if spec.arguments.get("trust_remote_code"):
        raise ConfigError("--model-args trust_remote_code: rgopd never runs the Python code of a model's folder")
    if spec.backend == "server" or Path(spec.model).suffix == ".gguf":
        return
    from transformers import PretrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from rgopd.common.vllm_head import inexact

    vllm, revision = spec.backend == "vllm", spec.arguments.get("revision")
    with loading("MODEL", spec.model):
        raw, _ = PretrainedConfig.get_config_dict(spec.model, revision=revision)
    check_architecture(spec.model, "MODEL", raw, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, may_be_quantised=vllm)
    dtype = spec.dtype if spec.dtype != "auto" else str(raw.get("dtype") or raw.get("torch_dtype"))
    if vllm and (reason := inexact(raw, dtype)):
        raise ConfigError(f"MODEL: {spec.model} (model_type {raw.get('model_type')!r}): {reason}; use --backend hf")
    check_weights("MODEL", spec.model)
    if not vllm and Path(spec.model).is_dir():
        _check_names(spec.model)
    _check_tokenizer(spec.tokenizer or spec.model)


def _check_names(model: str) -> None:
    """transformers fills weights that are missing with random numbers and goes on. Nothing is read but names."""
    from transformers import AutoModelForCausalLM

    with loading("MODEL", model):
        _, told = AutoModelForCausalLM.from_pretrained(
            model, device_map="meta", trust_remote_code=False, output_loading_info=True
        )
    check_whole("MODEL", model, told)


def _check_tokenizer(name: str) -> None:
    from transformers import AutoTokenizer

    at_hand("MODEL", name)
    with loading("MODEL", name):
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    check_tokenizer("MODEL", name, tokenizer, "give --tokenizer, or ")


def batches_exactly(model: Any) -> bool:
    """Whether lm-eval may ask a transformers model several things at once: it pads prompts on the left and decodes with
    a cache, which spoils some recurrent states and positions.

    Raises:
        ConfigError: even alone its answers are not those of its whole sequences.
    """
    import torch

    from rgopd.sampler.self_check import can_pad

    def decode(prompts: Sequence[NDArray[np.int32]], continuations: Sequence[NDArray[np.int32]]) -> Tensor:
        columns_BT = np.stack(continuations)
        length, new = max(map(len, prompts)), columns_BT.shape[1]
        ids_BS = torch.zeros(len(prompts), length, dtype=torch.long)
        mask_BS = torch.zeros_like(ids_BS)
        for row, prompt in enumerate(prompts):
            ids_BS[row, length - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask_BS[row, length - len(prompt) :] = 1

        def next_id(row: int, ids_S: Tensor) -> list[int]:
            done = len(ids_S) - length
            return [int(columns_BT[row, done])] if done < new else [0]

        out = model.generate(
            input_ids=ids_BS.to(model.device),
            attention_mask=mask_BS.to(model.device),
            max_new_tokens=new + 1,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=_NO_ID,
            prefix_allowed_tokens_fn=next_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits: Tensor = torch.stack(out.logits, dim=1)
        return logits

    vocab_size = int(model.config.get_text_config().vocab_size)
    return can_pad(model, decode, vocab_size, setting="MODEL", instead="choose another model", then="it is asked alone")


def ask_alone(lm: Any, say: Callable[[str], None]) -> None:
    """One request at a time from here on, where batches are not exact.

    Raises:
        ConfigError: as in `batches_exactly`.
    """
    if batches_exactly(lm.model):
        return
    lm.batch_size_per_gpu = 1
    say("prompts of unequal lengths change this model's answers when they are padded: one request at a time")
