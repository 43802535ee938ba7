"""Attention over a packed row in one call: flash-attn's variable-length kernel where it is installed, else torch's.

Both want 16-bit tensors on a GPU. Each is tried once on the device, against plain attention, before it is used;
everything else goes through `packing`'s groups.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rgopd.common.attention import varlen_call

log = logging.getLogger(__name__)

MAX_HEAD_DIM = 256
_NARROW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Kernel:
    """A variable-length attention.

    `run(query_SHD, key_SHD, value_SHD, cumulative_R1, longest, scale, window, cap)` -> `[S, H, D]`: causal within each
    rollout; `window`: how many tokens one sees, itself included, 0 for all; `cap`: of the scores, 0 for none.
    """

    name: str
    run: Callable[[Tensor, Tensor, Tensor, Tensor, int, float, int, float], Tensor]
    caps: bool
    """Whether it can squash the scores."""
    windows: bool

    def fits(self, window: int, cap: float) -> bool:
        """Whether it computes such an attention."""
        return (self.caps or not cap) and (self.windows or not window)


def kernel_for(query: Tensor) -> Kernel | None:
    """The one for tensors like this; None where there is none."""
    if query.dtype not in _NARROW or query.shape[-1] > MAX_HEAD_DIM or query.shape[-1] % 8:
        return None
    name = _asked(query.device, query.dtype)
    return _by_name[name] if name else None


_by_name: dict[str, Kernel] = {}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled layer does not look into the trial
def _asked(device: torch.device, dtype: torch.dtype) -> str:
    kernel = _trusted(device, dtype)
    if kernel is None:
        return ""
    _by_name[kernel.name] = kernel
    return kernel.name


@lru_cache
def _trusted(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """Tried in a thread of its own: what activation checkpointing counts in a forward is its thread's, and the trial is
    in the first forward alone."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(_tried, device, dtype).result()


def _tried(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    for find in (_flash_attn, _torch_varlen):
        try:
            kernel = find()
            worst = disagreement(kernel, device, dtype)
        except (ImportError, AttributeError, TypeError, RuntimeError, ValueError) as error:
            log.info("no variable-length attention by %s: %s", find.__name__.strip("_"), str(error).split("\n")[0])
            continue
        if worst < 0.05:
            log.info("packed rows use the variable-length attention of %s", kernel.name)
            return kernel
        log.warning("the variable-length attention of %s is not used: it differs by %.2g", kernel.name, worst)
    return None


@torch.enable_grad()
def disagreement(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference, value and gradients, from plain attention, on three short rollouts with shared key heads and,
    where it knows windows, a window of 5."""
    rng = torch.Generator().manual_seed(0)
    lengths, heads, shared, dim = [9, 1, 14], 4, 2, 32
    draw = [torch.randn(sum(lengths), h, dim, generator=rng) for h in (heads, shared, shared)]
    weight = torch.randn(sum(lengths), heads, dim, generator=rng)
    window = 5 if kernel.windows else 0
    found = []
    for wide in (True, False):
        q, k, v = (x.to(device, torch.float32 if wide else dtype).requires_grad_() for x in draw)
        if wide:
            parts = zip(*(torch.split(x, lengths) for x in (q, k, v)), strict=True)
            out = torch.cat([_plain(a, b, c, window) for a, b, c in parts])
        else:
            cumulative = torch.tensor([0, 9, 10, 24], dtype=torch.int32, device=device)
            out = kernel.run(q, k, v, cumulative, max(lengths), dim**-0.5, window, 0.0)
        grads = torch.autograd.grad((out.float() * weight.to(device)).sum(), (q, k, v))
        found.append([x.float() for x in (out, *grads)])
    return max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in zip(*found, strict=True))


def _plain(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, window: int) -> Tensor:
    place = torch.arange(len(q_THD), device=q_THD.device)
    back = place[:, None] - place[None]
    seen = (back >= 0) & (back < (window or len(q_THD)))
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_THD, v_THD))
    return scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1)


def _flash_attn() -> Kernel:
    return Kernel(
        "flash-attn", partial(_run_flash_attn, import_module("flash_attn").flash_attn_varlen_func), True, True
    )


def _run_flash_attn(
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cumulative: Tensor,
    longest: int,
    scale: float,
    window: int,
    cap: float,
) -> Tensor:
    options: dict[str, Any] = {"softcap": cap} if cap else {}  # an argument since 2.6
    if window:
        options["window_size"] = (window - 1, 0)
    places = (cumulative, cumulative, longest, longest)
    out: Tensor = function(query, key, value, *places, softmax_scale=scale, causal=True, **options)
    return out


def _torch_varlen() -> Kernel:
    """`torch.nn.attention.varlen`, from torch 2.10 on; what later versions added is asked of its signature."""
    function = import_module("torch.nn.attention.varlen").varlen_attn
    known = frozenset(inspect.signature(function).parameters)
    return Kernel("torch", partial(_run_torch, function, known), caps=False, windows="window_size" in known)


def _run_torch(
    function: Any,
    known: frozenset[str],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cumulative: Tensor,
    longest: int,
    scale: float,
    window: int,
    cap: float,
) -> Tensor:
    assert not cap
    query, key, value, options = varlen_call(known, query, key, value, scale=scale, causal=True, window=window)
    out: Tensor = function(query, key, value, cumulative, cumulative, longest, longest, **options)
    return out
