"""Where a rank computes and how FSDP2 spreads the student over the ranks."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

from rgopd.common.errors import ConfigError
from rgopd.common.parts import Part

BACKENDS = "cpu:gloo,cuda:nccl"
"""Tensors on the CPU (plans, agreement between ranks) go through gloo, those on a GPU through NCCL."""


class FsdpConfig(Part):
    """What FSDP2 does beside sharding parameters, gradients and optimiser over all ranks."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """`offload` alone."""
        return {"cpu_offload": True} if word in ("offload", "cpu_offload") else super().from_word(word)

    cpu_offload: bool = Field(
        False, description="Keep sharded weights, gradients and optimiser in CPU memory; slower, for models too large."
    )
    replicas: int = Field(
        1, ge=1, description="Hybrid sharding: this many groups of ranks, each with all of the model. 1: one group."
    )
    reshard_after_forward: bool = Field(
        True, description="Free a layer's gathered weights between forward and backward; false: faster, more memory."
    )


def pick_device(wanted: str, local_rank: int) -> torch.device:
    """This rank's device: a GPU of its own where there is one, else the CPU.

    Raises:
        ConfigError: `wanted` is no device, or there are fewer GPUs than ranks on this machine.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {wanted!r}: use auto, cpu or cuda")
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device=cuda, and torch sees no GPU; install a CUDA build of torch, or set device=cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; lower nproc, or "
            "set device=cpu"
        )
    return torch.device("cuda", local_rank)


def backend_for(device: torch.device) -> str:
    """For `init_process_group`."""
    return BACKENDS if device.type == "cuda" else "gloo"


def make_mesh(device: torch.device, ranks: int, replicas: int) -> DeviceMesh:
    """One dimension to shard over; or two, the first of which replicates.

    Raises:
        ConfigError: the ranks do not divide into so many replicas.
    """
    if replicas == 1:
        return init_device_mesh(device.type, (ranks,))
    if ranks % replicas:
        raise ConfigError(uneven(replicas, ranks))
    return init_device_mesh(device.type, (replicas, ranks // replicas), mesh_dim_names=("replicate", "shard"))


def uneven(replicas: int, ranks: int) -> str:
    """What to say where they do not."""
    fit = ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
    return f"fsdp.replicas={replicas} does not divide {ranks} ranks: set train.fsdp.replicas to one of {fit}"


def mixed_precision(dtype: str) -> MixedPrecisionPolicy:
    """Parameters compute in `dtype`; gradients are reduced, and the optimiser runs, in float32."""
    if dtype == "float32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)


def offload(options: FsdpConfig, device_type: str) -> OffloadPolicy:
    """Pinned memory where there is a GPU to copy to."""
    return CPUOffloadPolicy(pin_memory=device_type == "cuda") if options.cpu_offload else OffloadPolicy()
