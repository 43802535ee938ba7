"""What a run needs before its first step: bytes by process and purpose, bytes in Redis. Seconds: `seconds.py`.

The formulas, what they leave out and how far they were off when measured are in docs/runs.md. P: parameters, R: ranks,
b: bytes of the computing dtype, T: tokens of a micro-batch, D, F, A: widths of residual stream, MLP and attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from rgopd.common.models import loading
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.losses.head import DEFAULT_CHUNK
from rgopd.trainer.losses.plan import plan_tiles
from rgopd.trainer.student.anatomy import decoder_of, layers_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MASTER = 4
"""Bytes of a master weight, of its reduced gradient, and of each of Adam's two moments: all float32."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model; numbers of parameters and widths."""

    parameters: int
    layers: int
    hidden: int
    mlp: int
    attention: int
    kv: int
    """Width of keys (or values) of a layer: kv heads x head dimension."""
    vocab: int
    layer_parameters: int

    @property
    def root_parameters(self) -> int:
        """Those outside the decoder layers: embedding, last norm, head. FSDP2 keeps them in one group."""
        return self.parameters - self.layers * self.layer_parameters

    @property
    def body(self) -> int:
        """Parameters of the decoder layers: every token is multiplied with each of them."""
        return self.layers * self.layer_parameters

    @property
    def head(self) -> int:
        """Parameters of the head: only tokens whose distribution is asked for are multiplied with them."""
        return self.vocab * self.hidden

    @classmethod
    def of(cls, model: str) -> ModelShape:
        """Of a Hugging Face folder or id, from its config.json; no weights are read.

        Raises:
            ConfigError: the config cannot be had, or is not that of a causal language model.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        with loading("model", model), torch.device("meta"):
            whole: Any = AutoConfig.from_pretrained(model, trust_remote_code=False)
            built = AutoModelForCausalLM.from_config(whole)
        config = whole.get_text_config()
        layers = layers_of(decoder_of(built)) or [built.get_input_embeddings()]
        heads = int(getattr(config, "num_attention_heads", None) or 1)  # recurrent models have none
        head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        return cls(
            parameters=sum(p.numel() for p in built.parameters()),
            layers=int(config.num_hidden_layers),
            hidden=int(config.hidden_size),
            mlp=_widest(getattr(config, "intermediate_size", None)) or 4 * int(config.hidden_size),
            attention=heads * head_dim,
            kv=kv_heads * head_dim,
            vocab=int(config.vocab_size),
            layer_parameters=sum(p.numel() for layer in layers for p in layer.parameters()) // len(layers),
        )


def _widest(sizes: Any) -> int:
    return max(map(int, sizes)) if isinstance(sizes, list | tuple) and sizes else int(sizes or 0)


@dataclass(frozen=True)
class Need:
    """Bytes of one process on one device, by purpose."""

    process: str
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def states(self) -> int:
        """What is there from the first step to the last: framework, weights, gradients, optimiser."""
        lasting = ("weights (", "gradients (", "Adam", "framework")
        return sum(size for name, size in self.parts.items() if name.startswith(lasting))

    @property
    def total(self) -> int:
        """All of them: the peak, as if the parts' peaks met."""
        return sum(self.parts.values())


def layer_activations(shape: ModelShape, b: int) -> int:
    """Bytes a token that the backward pass of one decoder layer needs, without gradient checkpointing.

    Two norms: their input (a float32 copy where b = 2), the normalised input and the output. Attention: query, key and
    value repeated for all heads, the result, and its copy for the output projection. MLP: gate, its activation, up,
    and their product. No attention weights: SDPA does not keep them.
    """
    norms = 2 * shape.hidden * (4 + 2 * b if b < 4 else 3 * b)
    return norms + b * (5 * shape.attention + 4 * shape.mlp)


def products(shape: ModelShape, b: int) -> int:
    """Bytes a token of what a decoder layer's products and its attention give: kept by selective checkpointing."""
    return b * (3 * shape.attention + 2 * shape.kv + shape.hidden + 2 * shape.mlp)


def adapter_parameters(shape: ModelShape, r: int) -> int:
    """Those of LoRA of rank r on every linear layer of the decoder, as if all were targets."""
    d, f, a, kv = shape.hidden, shape.mlp, shape.attention, shape.kv
    return shape.layers * r * ((d + a) + 2 * (d + kv) + (a + d) + 3 * (d + f))


def trainer_need(config: TrainConfig, shape: ModelShape, *, on_gpu: bool) -> Need:
    """One trainer rank at the end of the backward pass of its fullest micro-batch."""
    ranks, b = config.nproc, BYTES[config.dtype]
    longest = config.dataset.max_prompt_tokens + config.longest_response
    tokens = max(config.batch.micro_batch_tokens, longest)  # a longer rollout makes a micro-batch of its own
    trained = shape.parameters if config.lora is None else adapter_parameters(shape, config.lora.r)
    on_device = not (on_gpu and config.fsdp.cpu_offload)
    weights = MASTER * (shape.parameters + (trained if config.lora else 0)) // ranks * on_device
    states = MASTER * trained // ranks * on_device
    layer = tokens * layer_activations(shape, b)
    inputs = tokens * shape.hidden * b * shape.layers
    chunk = MASTER * min(DEFAULT_CHUNK // shape.vocab, tokens) * shape.vocab
    backward = b * tokens * (2 * shape.mlp + shape.hidden) + (layer if config.gradient_checkpointing else 0)
    kept = inputs + tokens * shape.layers * products(shape, b) * (config.gradient_checkpointing == "selective")
    weight_gradient = MASTER + b
    if on_gpu:  # the head walks by tiles and keeps its logits narrowed
        tiles = plan_tiles(tokens, shape.vocab, shape.hidden, b)
        chunk = tiles.rows * (shape.vocab * b + tiles.width * MASTER)
        weight_gradient = b + MASTER * tiles.wide_sum
    k = config.distillation.width
    return _with_overhead(
        f"trainer (1 of {ranks} ranks)" if ranks > 1 else "trainer",
        {
            "weights (float32 shard)": weights,
            "gradients (float32 shard)": states,
            "Adam moments (float32 shard)": 2 * states,
            "gathered weights (root and two layers)": b * (shape.root_parameters + 2 * shape.layer_parameters),
            "gradient of the head's weight, whole": 0 if config.lora else weight_gradient * shape.vocab * shape.hidden,
            "activations": kept if config.gradient_checkpointing else shape.layers * layer,
            "the head's logits, or the backward of a layer": max(chunk, backward),
            "hidden states into the head, and their gradient": tokens * shape.hidden * (MASTER + 2 * b),
            f"log-probs of the support (K={k})": tokens * (k + 2) * 40,
        },
        framework(on_gpu, shape.vocab),
    )


def _with_overhead(process: str, parts: dict[str, int], framework: int) -> Need:
    overhead = {"allocator, copies while gathering (20%)": sum(parts.values()) // 5, "framework": framework}
    return Need(process, {**parts, **overhead})


def sampler_need(config: TrainConfig, shape: ModelShape, dtype: str, *, on_gpu: bool) -> Need:
    """A sampler with the transformers engine at the longest its rollouts can get; a new policy is read beside the old.

    vLLM takes a set share of its device instead.
    """
    b, sampling = BYTES[dtype], config.sampling
    groups = sampling.groups_per_request * sampling.n
    evaluation = config.eval.groups_per_request if config.eval.dataset else 0
    rows = max(groups, evaluation)
    length = config.dataset.max_prompt_tokens + config.longest_response
    return Need(
        "sampler",
        {
            "weights": b * shape.parameters,
            "next weights while loading": BYTES[config.dtype] * shape.parameters if not on_gpu else 0,
            f"KV cache ({rows} rollouts x {length})": 2 * shape.kv * shape.layers * b * rows * length,
            "logits and probabilities": rows * shape.vocab * (4 + 4 + 8 + 8),
            "framework": framework(on_gpu, shape.vocab),
        },
    )


@dataclass(frozen=True)
class TeacherSetup:
    """What of the teacher's settings matters here."""

    shape: ModelShape
    dtype: str
    tensor_parallel: int
    max_batch_tokens: int
    head_chunk_rows: int
    share: float
    """vLLM's gpu_memory_utilization; 0 for the transformers engine."""


def teacher_need(setup: TeacherSetup, device_bytes: int, *, on_gpu: bool) -> Need:
    """The teacher on one of its devices. vLLM fills its share with KV cache, but the weights must fit in it first."""
    shape, b = setup.shape, BYTES[setup.dtype]
    weights = b * shape.parameters // setup.tensor_parallel
    if setup.share:
        return vllm_need("teacher", shape, setup.dtype, setup.tensor_parallel, setup.share, device_bytes)
    tokens = setup.max_batch_tokens
    return Need(
        "teacher",
        {
            "weights": weights,
            "activations of a layer": tokens * b * (4 * shape.hidden + 3 * shape.attention + 3 * shape.mlp),
            "logits of a chunk": 3 * MASTER * setup.head_chunk_rows * shape.vocab,
            "framework": framework(on_gpu, shape.vocab),
        },
    )


def vllm_need(
    process: str, shape: ModelShape, dtype: str, tensor_parallel: int, share: float, device_bytes: int
) -> Need:
    """vLLM on one of its devices: it takes `share` (gpu_memory_utilization) of the device, and its weights must fit."""
    weights = BYTES[dtype] * shape.parameters // tensor_parallel
    rest = max(int(share * device_bytes) - weights, 2 << 30)  # prefill workspace: below this it cannot start
    return Need(f"{process} (vLLM, 1 of {tensor_parallel})", {"weights": weights, "vLLM's share": rest})


def framework(on_gpu: bool, vocab: int) -> int:
    """Interpreter, libraries, a tokenizer and (on a GPU) context and workspaces, as measured with torch 2.13 on a CPU:
    0.4 GiB with a tokenizer of a few ids, 0.7 GiB with one of 151,936 and what loading a model leaves behind."""
    return (1536 << 20) if on_gpu else (400 << 20) + 2048 * vocab


def redis_bytes(config: TrainConfig, mean_response: float, mean_prompt: float) -> dict[str, int]:
    """Bytes that one step leaves in Redis until it has been trained on, and what is there at once.

    A rollout: prompt, response and support ids (int32), sampled log-probs (float32), text. A score: sampled and top-K
    log-probs (float32) and the tail; the ids too where the teacher chose them.
    """
    k, tokens = config.distillation.width, mean_response
    needs_teacher = config.build_objective().needs_teacher
    student_support = config.distillation.support == "student"
    rollout = 4 * mean_prompt + tokens * (4 + 4 + 4) + (4 * tokens * k if student_support else 0)
    score = tokens * (4 + 4 + 4 * k + (0 if student_support else 4 * k)) if needs_teacher else 0
    count = config.sampling.prompts_per_step * config.sampling.n
    step = int(count * (rollout + score + 1500))  # names, headers and the check of each rollout's messages
    return {"a rollout": int(rollout + score), "a step": step, "at once": step * (1 + config.max_staleness)}
