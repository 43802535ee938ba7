"""What one unit of work costs each stage, in seconds. Fitted on measurements, or derived from a GPU's data sheet.

The forms are the simplest that fit: a batch's fixed part plus a part for each token or item.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerCosts:
    """One replica. A step of its decoding carries every rollout that it has in work."""

    prefill_s_token: float
    step_s: float
    """A decoding step, however many rollouts are in it: reading the weights, launching kernels."""
    step_s_rollout: float
    """What each rollout adds to a step: its KV cache, its share of the arithmetic."""
    load_s: float = 0.0
    """Loading a new policy version."""
    kv_tokens: int = 0
    """Tokens that its KV cache holds: it takes requests as long as their rollouts have room there, and mixes them
    (vLLM). 0: one request at a time (transformers)."""


@dataclass(frozen=True)
class TeacherCosts:
    """One replica, which scores batches of up to `batch_tokens` tokens."""

    batch_s: float
    token_s: float
    batch_tokens: int = 16_384


@dataclass(frozen=True)
class VerifierCosts:
    """One replica of `slots` sandboxes."""

    item_s: float
    slots: int = 1


@dataclass(frozen=True)
class TrainerCosts:
    """All ranks together: each works on its share of the tokens."""

    step_s: float
    token_s: float
    """For one rank; `ranks` of them share the tokens."""
    publish_s: float = 0.0
    """Gathering and writing a policy version. Samplers wait for it, the trainer only with max_staleness 0."""


@dataclass(frozen=True)
class StoreCosts:
    """The Redis-protocol servers: one thread each, so everything queues.

    Args:
        servers: groups are spread over them evenly (`redis_url` with commas).
        blobs: whether tensors pass them; not with a `blob_url`, whose store is taken to be as wide as it must.
    """

    message_s: float
    byte_s: float
    servers: int = 1
    blobs: bool = True

    def work_s(self, messages: float, size: float) -> float:
        """Seconds that each server is busy with this."""
        return (messages * self.message_s + (size * self.byte_s if self.blobs else 0.0)) / self.servers


@dataclass(frozen=True)
class Costs:
    """A calibration."""

    name: str
    source: str
    sampler: SamplerCosts
    teacher: TeacherCosts
    verifier: VerifierCosts
    trainer: TrainerCosts
    store: StoreCosts


@dataclass(frozen=True)
class Model:
    """What of a model's shape decides its cost.

    Args:
        parameters: all of them, in units; they take memory.
        active: those that one token uses; equal to `parameters` but for mixtures of experts.
        kv_bytes_token: keys and values of one token over all layers, in bytes.
    """

    name: str
    parameters: float
    active: float
    kv_bytes_token: float


@dataclass(frozen=True)
class Gpu:
    """A data sheet and the shares of it that the stages reach."""

    name: str
    flops: float
    """Dense bfloat16, per second."""
    bandwidth: float
    """Of its memory, bytes a second."""
    memory: float = 80e9
    """Bytes."""
    train_share: float = 0.40
    prefill_share: float = 0.50
    bandwidth_share: float = 0.60
    step_overhead_s: float = 0.004


HASH_BYTES_S = 1.8e9
"""sha256 on one core with SHA instructions, measured: the trainer hashes while it writes, a sampler before it loads."""
WRITE_BYTES_S, READ_BYTES_S = 2e9, 5e9
"""Gathering and writing a policy version (measured into memory: 2.0 GB/s of one core); reading it, assumed."""

VLLM_SHARE, VLLM_OVERHEAD = 0.9, 3e9
"""`gpu_memory_utilization`, and what of it activations and captured graphs take, in bytes."""


def roofline(
    student: Model, teacher: Model, gpu: Gpu, *, teacher_gpus: int, verify_s: float, store: StoreCosts
) -> Costs:
    """Costs from arithmetic and bandwidth: 2 FLOP a parameter and token forward, 6 with backward, 8 where activations
    are recomputed (Kaplan et al., arXiv 2001.08361, section 2.1), at the shares that `gpu` names.

    Args:
        teacher_gpus: of one replica; tensor parallelism over them loses a tenth for every doubling.
        verify_s: core-seconds of one verdict.
    """
    doublings = (teacher_gpus - 1).bit_length()
    teacher_flops = gpu.flops * gpu.prefill_share * teacher_gpus * 0.9**doublings
    weights_s = 2 * student.active / (gpu.bandwidth * gpu.bandwidth_share)
    context = 1000  # tokens of cache that a decoding rollout reads, on average
    compute_s = 2 * student.active / (gpu.flops * gpu.prefill_share)
    bytes_ = 2 * student.parameters
    cache_s = student.kv_bytes_token * context / (gpu.bandwidth * gpu.bandwidth_share)
    return Costs(
        name=f"{student.name} / {teacher.name} on {gpu.name}",
        source="data sheet and assumed shares: not measured",
        sampler=SamplerCosts(
            compute_s,
            weights_s + gpu.step_overhead_s,
            compute_s + cache_s,
            load_s=0.5 + bytes_ / HASH_BYTES_S + bytes_ / READ_BYTES_S,
            kv_tokens=int((VLLM_SHARE * gpu.memory - bytes_ - VLLM_OVERHEAD) / student.kv_bytes_token),
        ),
        teacher=TeacherCosts(0.02, 2 * teacher.active / teacher_flops),
        verifier=VerifierCosts(verify_s, slots=8),
        trainer=TrainerCosts(
            1.0, 8 * student.active / (gpu.flops * gpu.train_share), publish_s=bytes_ / min(WRITE_BYTES_S, HASH_BYTES_S)
        ),
        store=store,
    )
