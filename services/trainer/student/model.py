"""The student as a module whose forward ends in log-probs, not logits; and its sharding by FSDP2."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from rgopd.common.errors import ConfigError
from rgopd.common.head import after_head
from rgopd.common.models import check_whole, loading
from rgopd.trainer.batch.packing import PackedRow, enable_packing
from rgopd.trainer.student.anatomy import decoder_of, head_of, layers_of
from rgopd.trainer.student.compiled import compile_layers, explained
from rgopd.trainer.student.fsdp_options import FsdpConfig, mixed_precision, offload
from rgopd.trainer.student.lora import ADAPTER, LoraOptions, add_adapters, merged
from rgopd.trainer.student.recompute import Checkpointing, arguments
from rgopd.trainer.student.stored import NotStored, Stored, open_stored, standing_in

log = logging.getLogger(__name__)

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
        head, config = head_of(model), model.config.get_text_config()
        decoder_of(model)
        self.after_head = after_head(config)
        self.vocab_size = shared_vocab_size or min(int(config.vocab_size), head.weight.shape[0])
        self.aliases = _aliases(model)
        with standing_in(model):
            self.hf = model if lora is None else add_adapters(model, lora)
        self.lora = lora
        self.stored: Stored | None = None
        """What `shard` fills it from, where its parameters are not there yet."""
        self.packing = False
        """Whether it takes packed rows; where it does not, `unpacked` says why."""
        self.unpacked = "not asked for"
        self.compiled = False
        """Whether the decoder's layers go through torch.compile."""

    @classmethod
    def load(
        cls,
        path: str,
        *,
        shared_vocab_size: int = 0,
        gradient_checkpointing: Checkpointing = False,
        packing: bool = False,
        lora: LoraOptions | None = None,
        compile_backend: str = "",
        streamed: bool = False,
    ) -> Student:
        """From a Hugging Face folder or id, in float32: the optimiser's master weights.

        Args:
            packing: accept packed rows too.
            streamed: leave the weights in their files until `shard`, which reads them a layer at a time.
            compile_backend: of torch.compile ("inductor") for the decoder's layers; empty: none.
        """
        stored = None
        with loading("student", path):
            if streamed:
                try:
                    model, stored = open_stored(path)
                except NotStored as why:
                    log.info("every rank reads all of %s before it is sharded: %s", path, why)
            if stored is None:
                model, told = AutoModelForCausalLM.from_pretrained(
                    path, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
                )
                check_whole("student", path, told)
                model = model.eval()
        if gradient_checkpointing and not compile_backend:  # compiled layers have their own, see `compile_layers`
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable(arguments(gradient_checkpointing))  # the older of the two names warns in transformers 5
            _checkpoint_without_dropout(model)
        student = cls(model, shared_vocab_size=shared_vocab_size, lora=lora)
        student.stored = stored
        if packing:
            student.pack()
        if compile_backend:
            compile_layers(layers_of(decoder_of(student.hf)), compile_backend, gradient_checkpointing)
            student.compiled = True
        return student

    def pack(self) -> None:
        """Take packed rows from now on, if the architecture can be packed; `packing` and `unpacked` say."""
        try:
            enable_packing(self.hf)
        except ConfigError as error:
            self.unpacked = str(error)
        else:
            self.packing, self.unpacked = True, ""

    def head_options(self, temperature: float) -> dict[str, Any]:
        """What `head_stats` and `head_loss` must know of this student's head, as their keywords.

        To be asked for within `forward`, where FSDP2 has gathered the bias. A factor after the head is a temperature.
        """
        options: dict[str, Any] = {"temperature": temperature / self.after_head.scale, "vocab_size": self.vocab_size}
        if self.after_head.soft_cap:
            options["soft_cap"] = self.after_head.soft_cap
            if self.after_head.scale != 1.0:
                raise ConfigError("student: an architecture that both scales and caps its logits is not known")
        if (bias_V := head_of(self.hf).bias) is not None:
            options["bias_V"] = bias_V
        return options

    def own_logits(self, ids_S: Tensor) -> Tensor:
        """[S, V] of one sequence as the model itself makes them, over the shared vocabulary: what `self_check`
        compares with."""

        ids_1S = ids_S[None]
        logits_1SV = self.hf(input_ids=ids_1S, attention_mask=torch.ones_like(ids_1S), use_cache=False).logits
        logits_SV: Tensor = logits_1SV[0, :, : self.vocab_size].clone()  # no view: FSDP hooks what is returned
        return logits_SV

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
        with explained():
            hidden_BSD = decoder_of(self.hf)(
                input_ids=input_ids_BS,
                attention_mask=attention_mask_BS,
                use_cache=False,
                **({} if packed is None else packed.arguments()),
            ).last_hidden_state
        return head(hidden_BSD.flatten(0, 1)[rows_N], head_of(self.hf).weight)


def _checkpoint_without_dropout(model: nn.Module) -> None:
    """transformers makes activations again in modules in training mode alone; all others stay in evaluation mode.

    The policy that is trained must be the one that sampled: no dropout, layer drop or router noise, of whatever a
    checkpointed module holds itself.
    """
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name, value in list(vars(module).items()):
                if isinstance(value, float) and ("drop" in name or "jitter" in name or "noise" in name):
                    setattr(module, name, 0.0)


def _aliases(model: Any) -> frozenset[str]:
    """Names of parameters that are others under a second name: a head that is the embedding, a repeated block."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    found: set[str] = set()
    for same in names.values():
        kept = next((name for name in same if name not in tied), same[0])
        found.update(name for name in same if name != kept)
    return frozenset(found)


def shard(student: Student, mesh: DeviceMesh, dtype: str, options: FsdpConfig | None = None) -> None:
    """FSDP2: one group a decoder layer, the rest (embedding, norm, head) in the root; see `fsdp_options`."""
    options = options or FsdpConfig()
    policies: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": mixed_precision(dtype),
        "offload_policy": offload(options, mesh.device_type),
        "reshard_after_forward": options.reshard_after_forward,
    }
    for layer in layers_of(decoder_of(student.hf)):
        if student.stored is not None:
            student.stored.fill(layer)
        layer.register_forward_hook(_without_views)  # before FSDP2's own hook
        fully_shard(layer, **policies)
    if student.stored is not None:
        student.stored.fill(student.hf)
        student.stored = None
    fully_shard(student, **policies)
    register_fsdp_forward_method(student, "own_logits")  # gathers what forward gathers


def _without_views(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    """FSDP2 hangs its backward hook on a layer's output, and would lose it if a view (OPT's) were changed in place."""
    if isinstance(output, tuple):
        return tuple(_without_views(_module, _arguments, part) for part in output)
    return output.clone() if isinstance(output, Tensor) and output._base is not None else output


@dataclass(frozen=True)
class Published:
    """The student's weights as they are stored: under their Hugging Face names, tied ones once, adapters merged."""

    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    """All of one dtype."""
    tensors: Iterator[tuple[str, Tensor]]
    """In the order of the names, one at a time; to be gone through to the end by every rank. On rank 0 on the CPU,
    where they may be the parameters themselves; on the others nothing comes."""


def published(student: Student, dtype: str) -> Published:
    """Collective. Each rank casts its own shard before it is gathered, a tensor at a time: nowhere is there a float32
    copy of all weights, nor on any rank but the first two whole tensors at once."""
    narrow: torch.dtype = getattr(torch, dtype)
    state = {k.removeprefix("hf."): v.detach() for k, v in student.state_dict().items()}
    found = {name: tuple(state[source].shape) for name, source in _merged_names(state).items()}
    named = {name: shape for name, shape in found.items() if name not in student.aliases}
    like = {name: torch.empty(shape, dtype=narrow, device="meta") for name, shape in named.items()}
    gathered = _gathered(student, state, sorted(named), narrow)
    stored = as_stored(student.hf, like)
    if not all(stored.get(name) is tensor for name, tensor in like.items()):  # stored otherwise than held in memory
        kept = as_stored(student.hf, dict(gathered)) if _is_first() else dict(gathered)
        return Published(
            {k: (v.dtype, tuple(v.shape)) for k, v in kept.items()}, ((name, kept[name]) for name in sorted(kept))
        )
    return Published({name: (narrow, shape) for name, shape in named.items()}, gathered)


def _merged_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without adapters, and the entries that hold those weights."""
    return {name.replace(".base_layer.", "."): name for name in state if ".lora_" not in name}


def _gathered(
    student: Student, state: dict[str, Tensor], names: list[str], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    sources, first = _merged_names(state), _is_first()
    for name in names:
        source = sources[name]
        layer, adapted, kind = source.partition(".base_layer.")
        if student.lora is not None and adapted and kind == "weight":
            parts = [source, *(f"{layer}.lora_{side}.{ADAPTER}.weight" for side in "AB")]
            whole = {part: _whole(state[part], state[part].dtype, first) for part in parts}
            if first:
                yield name, merged(whole, student.lora.scaling)[name].to(dtype)
        else:
            tensor = _whole(state[source], dtype, first)
            if first:
                yield name, tensor


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _whole(shard: Tensor, dtype: torch.dtype, wanted: bool) -> Tensor:
    """Collective. On the CPU of the rank that wants it."""
    if isinstance(shard, DTensor):
        # Kept in host memory by FSDP's offloading, perhaps.
        there: Any = shard.to(dtype).to(shard.device_mesh.device_type)
        whole: Tensor = there.full_tensor()
        return whole.cpu() if wanted else whole
    return shard.to(dtype).cpu() if wanted else shard


def full_weights(student: Student, dtype: str) -> dict[str, Tensor]:
    """All weights on the CPU under their Hugging Face names, tied ones once, adapters merged.

    On rank 0; empty elsewhere. Collective: every rank must call it.
    """
    return dict(published(student, dtype).tensors)


def as_stored(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names and in the shapes of the architecture's checkpoints, which vLLM reads too: transformers
    holds some otherwise in memory (the experts of a layer as one tensor)."""
    from transformers.core_model_loading import revert_weight_conversion

    stored: dict[str, Tensor] = revert_weight_conversion(model, state)
    return stored


def save_pretrained(folder: Path, student: Student, weights: Published, tokenizer: Any) -> None:
    """A Hugging Face folder that `from_pretrained` and vLLM load. Rank 0's."""
    from rgopd.trainer.student.weights import stream_weights

    stream_weights(folder, weights.shapes, weights.tensors, student.hf.config)
    if student.hf.generation_config is not None:
        student.hf.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
