"""Seconds of the stages of a step before any was taken: from sizes of models and speeds of a device.

What was measured against them is in docs/runs.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.estimate import BYTES, MASTER, ModelShape


@dataclass(frozen=True)
class Device:
    """What a device can hold and do: bytes, dense FLOP/s, bytes/s from its memory. A GPU's are those of its data sheet,
    in bf16; a CPU's are measured, in float32."""

    name: str
    memory: int
    flops: float
    bandwidth: float
    narrow_flops: float = 0.0
    """A CPU's in bf16: more than in float32 where it has instructions for it, less where it has none. 0: as `flops`."""

    def speed(self, dtype: str) -> float:
        """FLOP/s in a dtype."""
        return self.flops if dtype == "float32" else self.narrow_flops or self.flops


DEVICES = {
    name: Device(name, int(gib * (1 << 30)), tera * 1e12, gigabytes * 1e9)
    for name, gib, tera, gigabytes in (
        ("h200", 139, 989, 4800),
        ("h100", 79, 989, 3350),
        ("a100-80", 79, 312, 2039),
        ("a100-40", 39.5, 312, 1555),
        ("l40s", 44, 362, 864),
        ("l4", 22, 121, 300),
        ("rtx4090", 23.5, 165, 1008),
    )
}
TRAIN_UTILISATION, SCORE_UTILISATION, DECODE_UTILISATION = 0.35, 0.4, 0.5
"""Assumed shares of FLOP/s, FLOP/s and bandwidth that training, scoring and vLLM's decoding reach; measure yours."""


VLLM_ROWS = 256
"""Sequences that vLLM decodes at once by default (max_num_seqs)."""
EAGER_DECODING = 10
"""How much slower transformers decodes on a GPU than vLLM does: Python launches every operator of every token."""
CPU_UTILISATION = 0.5
"""Of the speed that a CPU's own matrix product and copy showed: models have smaller ones, and much between them."""
FEW_ROWS = 0.5
"""Of the rest, where a product has the few rows of a decoding batch: 16 on two cores, decision 029."""
DRAW_BYTES = 60
"""Read and written for each logit that a token is drawn from: log-softmax, top-K, sums of float64 probabilities."""
SHARED_CORES = 1.5
"""How much longer sampler and teacher take, each with a thread a core, while both are at work: what was left of a real
run after their parts (decision 029)."""


def step_seconds(
    config: TrainConfig,
    student: ModelShape,
    teacher: ModelShape,
    device: Device,
    *,
    mean_response: float,
    mean_prompt: float,
    tensor_parallel: int,
    samplers: int,
    sampler_engine: str = "vllm",
    sampler_dtype: str = "bfloat16",
    teacher_dtype: str = "bfloat16",
    on_gpu: bool = True,
) -> dict[str, float]:
    """Assumed seconds of each stage of a step, when nothing has been measured.

    Decoding reads all weights (and the rollouts so far) for every token of a batch, or on a CPU multiplies with them
    where that takes longer; scoring takes 2 P FLOPs a token, training 6 P (4 P where adapters alone are trained), and
    2 P more where activations are made again. All processes of a CPU share it, so that more of them are no faster.
    """
    if not on_gpu:
        return _cpu_seconds(config, student, teacher, device, mean_response, mean_prompt, sampler_dtype, teacher_dtype)
    sampling = config.sampling
    count = sampling.prompts_per_step * sampling.n
    mixes = sampler_engine == "vllm"  # rows come and go; else a batch ends with its longest rollout
    rows = min(-(-count // samplers), VLLM_ROWS) if mixes else min(count, sampling.groups_per_request * sampling.n)
    cache = 2 * 2 * student.kv * student.layers * rows * (mean_prompt + mean_response / 2)
    token = (2 * student.parameters + cache) / (device.bandwidth * DECODE_UTILISATION)
    sequence = count * (mean_prompt + mean_response)
    if mixes:
        tokens = max(sampling.longest, mean_response * count / samplers / rows)
    else:
        tokens = EAGER_DECODING * sampling.longest * count / rows / samplers
    passes = _passes(config)
    return {
        "sample": tokens * token,
        "score": 2 * teacher.parameters * sequence / (tensor_parallel * device.flops * SCORE_UTILISATION),
        "train": passes * student.parameters * sequence / (config.nproc * device.flops * TRAIN_UTILISATION),
        "publish": 2 * 2 * student.parameters / 1e9,  # written and read once at 1 GB/s
    }


def _passes(config: TrainConfig) -> int:
    """FLOPs a parameter and token: forward 2, gradients of activations 2, of weights 2, the forward once more 2."""
    return 4 + 2 * (config.lora is None) + 2 * (config.gradient_checkpointing is True)


def _cpu_seconds(
    config: TrainConfig,
    student: ModelShape,
    teacher: ModelShape,
    device: Device,
    mean_response: float,
    mean_prompt: float,
    sampler_dtype: str,
    teacher_dtype: str,
) -> dict[str, float]:
    """Prompts pass the layers alone, and once a group in samplers; responses the head too. The teacher scores a rollout
    as it ends, beside the sampler: with its own prompt, and on the same cores."""
    sampling = config.sampling
    prompts, count = sampling.prompts_per_step, sampling.prompts_per_step * sampling.n
    rows = min(count, sampling.groups_per_request * sampling.n)
    responses = count * mean_response
    prefill = 2 * student.body * prompts * mean_prompt / (device.speed(sampler_dtype) * CPU_UTILISATION)
    steps = longest_of(rows, mean_response, sampling.longest) * count / rows
    own = count * mean_prompt + responses
    scored = teacher.body * own + teacher.head * responses
    trained = student.body * own + student.head * responses
    together = SHARED_CORES if _asks(config) else 1.0
    return {
        "sample": together * (prefill + cpu_token_seconds(student, device, rows, sampler_dtype) * steps),
        "score": together * 2 * scored / (device.speed(teacher_dtype) * CPU_UTILISATION) if _asks(config) else 0.0,
        "train": _passes(config) * trained / (device.speed(config.dtype) * CPU_UTILISATION),
        "publish": 2 * 4 * student.parameters / 1e9,
    }


def cpu_token_seconds(student: ModelShape, device: Device, rows: int, dtype: str) -> float:
    """One more token of each of `rows` rollouts, by the transformers sampler.

    The layers' weights are read, or multiplied with where that takes longer; the head's too, in float32 whatever the
    dtype (`sampler/head.py`): 16-bit weights are read, written wide and read again for every token. Then the draw.
    """
    bandwidth, b = device.bandwidth * CPU_UTILISATION, BYTES[dtype]
    few = CPU_UTILISATION * FEW_ROWS
    layers = max(b * student.body / bandwidth, 2 * student.body * rows / (device.speed(dtype) * few))
    wide = MASTER if b == MASTER else b + 2 * MASTER
    head = max(wide * student.head / bandwidth, 2 * student.head * rows / (device.flops * few))
    return layers + head + DRAW_BYTES * rows * student.vocab / bandwidth


def _asks(config: TrainConfig) -> bool:
    return config.build_objective().needs_teacher


def longest_of(rows: int, mean: float, most: int) -> float:
    """Tokens of the longest of `rows` responses, which a batch waits for: as if each token might be the last one."""
    return min(most, mean * sum(1 / n for n in range(1, rows + 1)))
