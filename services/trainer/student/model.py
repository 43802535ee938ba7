"""The student as a module whose forward ends in log-probs, not logits; and its sharding by FSDP2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from rgopd.common.errors import ConfigError
from rgopd.trainer.batch.packing import PackedRow, enable_packing
from rgopd.trainer.student.fsdp_options import FsdpConfig, mixed_precision, offload
from rgopd.trainer.student.lora import LoraOptions, add_adapters, merged

CPU = torch.device("cpu")
_Result = TypeVar("_Result")


class Student(nn.Module):
    """A Hugging Face causal language model under the fused head.

    Args:
        model: the causal LM; its lm_head may be tied to the embedding.
        shared_vocab_size: ids from here on do not exist (padding rows); 0: all exist.
    """

    def __init__(self, model: Any, *, shared_vocab_size: int = 0, lora: LoraOptions | None = None) -> None:
        super().__init__()
        self.hf = model if lora is None else add_adapters(model, lora)
        self.lora = lora
        self.vocab_size = shared_vocab_size or int(model.config.vocab_size)
        if model.get_output_embeddings() is None or getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise ConfigError(f"{type(model).__name__}: the student needs an lm_head without bias")

    @classmethod
    def load(
        cls,
        path: str,
        *,
        shared_vocab_size: int = 0,
        gradient_checkpointing: bool = False,
        packing: bool = False,
        device: torch.device = CPU,
        lora: LoraOptions | None = None,
        compile_backend: str = "",
    ) -> Student:
        """From a Hugging Face folder or id, in float32: the optimiser's master weights.

        Args:
            packing: accept packed rows too.
            device: where it will compute; it is `shard` that moves it there.
            compile_backend: of torch.compile ("inductor") for the decoder's MLPs and norms; empty: none.
        """
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        if packing:
            enable_packing(model, device)
        if gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})  # the older of the two names warns in transformers 5
        student = cls(model.train(), shared_vocab_size=shared_vocab_size, lora=lora)
        if compile_backend:
            _compile(student, compile_backend)
        return student

    def forward(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor | None,
        rows_N: Tensor,
        head: Callable[[Tensor, Tensor], tuple[Tensor, _Result]],
        packed: PackedRow | None = None,
    ) -> tuple[Tensor, _Result]:
        """Run the body, then `head(hidden_ND, weight_VD)`, whose loss and what comes with it are returned.

        rows_N: int64, index into the flattened [B*S] positions that predict the N response tokens. The head runs in
        here because under FSDP2 its weight is whole only inside the forward and backward of the module that owns it;
        the loss stands alone because FSDP2 looks for output tensors to hook in tuples, not in dataclasses.
        """
        hidden_BSD = self.hf.get_decoder()(
            input_ids=input_ids_BS,
            attention_mask=attention_mask_BS,
            use_cache=False,
            **({} if packed is None else packed.arguments()),
        ).last_hidden_state
        return head(hidden_BSD.flatten(0, 1)[rows_N], self.hf.get_output_embeddings().weight)


def _compile(student: Student, backend: str) -> None:
    """All of each decoder layer but its attention, whose walk over a packed row would break the graph, and with
    activation checkpointing leave the whole layer eager. The head stays eager too: it walks in Python."""
    for layer in student.hf.get_decoder().layers:
        for name, part in layer.named_children():
            if name not in ("self_attn", "attn", "attention", "self_attention"):
                part.compile(backend=backend, dynamic=True)  # token counts differ from batch to batch


def shard(student: Student, mesh: DeviceMesh, dtype: str, options: FsdpConfig | None = None) -> None:
    """FSDP2: one group a decoder layer, the rest (embedding, norm, head) in the root; see `fsdp_options`."""
    options = options or FsdpConfig()
    policies: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": mixed_precision(dtype),
        "offload_policy": offload(options, mesh.device_type),
        "reshard_after_forward": options.reshard_after_forward,
    }
    for layer in student.hf.get_decoder().layers:
        fully_shard(layer, **policies)
    fully_shard(student, **policies)


def full_weights(student: Student, dtype: str) -> dict[str, Tensor]:
    """All weights on the CPU under their Hugging Face names, tied ones once, adapters merged.

    On rank 0; empty elsewhere. Collective: every rank must call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(student, options=options)
    tied = (
        set(getattr(student.hf, "_tied_weights_keys", None) or ()) if student.hf.config.tie_word_embeddings else set()
    )
    kept = {k.removeprefix("hf."): v for k, v in state.items()}
    if student.lora is not None:
        kept = merged(kept, student.lora.scaling)
    return {k: v.to(getattr(torch, dtype)) for k, v in kept.items() if k not in tied}


def save_pretrained(folder: Path, student: Student, weights: dict[str, Tensor], tokenizer: Any) -> None:
    """A Hugging Face folder that `from_pretrained` and vLLM load."""
    from rgopd.trainer.student.weights import write_weights

    write_weights(folder, weights, student.hf.config)
    if student.hf.generation_config is not None:
        student.hf.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
