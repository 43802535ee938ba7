"""Whose passes over the tiles a device gets: Triton's where they were tried and agree, PyTorch's everywhere else."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor

from rgopd.trainer.losses.tiles import Kept, Kernels, SparseGrad, TileMath
from rgopd.trainer.losses.torch_tiles import TorchTiles

log = logging.getLogger(__name__)


def choose(kernels: Kernels, hidden_ND: Tensor) -> TileMath:
    """Whose passes to use for these hidden states.

    Raises ImportError where ``triton`` was asked for by name and is not there.
    """
    if kernels == "torch" or (kernels == "auto" and not (hidden_ND.is_cuda and hidden_ND.dtype != torch.float64)):
        return TorchTiles()
    if kernels == "triton":
        from rgopd.trainer.losses.triton_tiles import TritonTiles

        return TritonTiles()
    return _trusted(hidden_ND.device.index or 0, hidden_ND.dtype)


@lru_cache
def _trusted(device: int, dtype: torch.dtype) -> TileMath:
    """Triton's passes if they compile on this GPU and agree with PyTorch's on a small tile; decided once a process."""
    try:
        from rgopd.trainer.losses.triton_tiles import TritonTiles

        worst = disagreement(TritonTiles(), torch.device("cuda", device), dtype)
    except (ImportError, RuntimeError, ValueError, OSError) as error:  # Triton's own errors are RuntimeErrors
        log.warning("the head's Triton kernels are not used: %s", error)
        return TorchTiles()
    if worst > 1e-4:
        log.warning("the head's Triton kernels are not used: they differ from PyTorch's by %.2g", worst)
        return TorchTiles()
    return TritonTiles()


def disagreement(tiles: TileMath, device: torch.device, dtype: torch.dtype) -> float:
    """Largest relative difference of another implementation's statistics and gradients from PyTorch's, on a tile with
    padding, a sampled id within the support, and a vocabulary that is no multiple of any block."""
    rng = torch.Generator().manual_seed(0)
    rows, vocab, width, k = 3, 5003, 64, 5
    hidden = torch.randn(rows, width, generator=rng).to(device, dtype)
    weight = torch.randn(vocab, width, generator=rng).to(device, dtype)
    support = torch.stack([torch.randperm(vocab, generator=rng)[:k] for _ in range(rows)]).to(device)
    support[0, -1] = -1
    sampled = support[:, 0].clone()
    sampled[-1] = vocab - 1
    grads = torch.randn(rows, k + 2, generator=rng).to(device)
    found = []
    for math in (TorchTiles(), tiles):
        tile = hidden.new_empty(rows, vocab, dtype=torch.float32)
        math.project(hidden, weight, 0.7, out=tile)
        stats = math.reduce_(tile, sampled, support, True, 0.7)
        grad = SparseGrad.of(sampled, support, grads[:, 0], grads[:, 1 : k + 1])
        entropy = (grads[:, -1], stats.entropy_N)
        gradient = math.grad_(tile, stats.log_normaliser_N, grad, 0, entropy, 0.7, reduced=True, dtype=torch.float32)
        found.append([stats.log_normaliser_N, stats.sampled_N, stats.support_NK, stats.entropy_N, gradient.clone()])
        kept = Kept.empty(tile.clone(), torch.cat([sampled[:, None], support], 1), vocab, 1024, torch.float32)
        math.project(hidden, weight, 0.7, out=tile)
        for start in range(0, vocab, 2048):
            math.absorb_(tile[:, start : start + 2048].clone(), start, 0.7, kept)
        math.spend_(kept, None, stats.log_normaliser_N, grad, 0, tile, entropy, 0.7)
        found[-1] += [kept.largest_CB, kept.total_CB, kept.moment_CB, kept.named_CJ, tile]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in zip(*found, strict=True))
