"""Attention over segments of one row, with the log of its normaliser, so that two of them can be added.

On a GPU torch's variable-length flash attention (`torch.nn.attention.varlen`, torch 2.10 and newer); elsewhere, for
tests, plain arithmetic a segment at a time.
"""

from __future__ import annotations

import inspect
from importlib import import_module

import torch
from torch import Tensor

from rgopd.common.attention import varlen_call


def attend(
    query_NHD: Tensor,
    key_MHD: Tensor,
    value_MHD: Tensor,
    query_bounds_S1: Tensor,
    key_bounds_S1: Tensor,
    longest: tuple[int, int],
    *,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Segment s of the queries sees segment s of the keys: ``[N, H, D]`` and the log-normaliser ``[H, N]``, float32.

    The bounds are int32, from 0 to N and to M; `longest`: the longest segment of either. Fewer key heads than query
    heads are shared.

    Raises:
        ImportError: a GPU, and a torch without variable-length attention.
    """
    segments = query_bounds_S1, key_bounds_S1
    if query_NHD.is_cuda:
        return _flash(query_NHD, key_MHD, value_MHD, *segments, *longest, causal, scale)
    return _plain(query_NHD, key_MHD, value_MHD, *segments, causal, scale)


def add(one_NHD: Tensor, log_one_HN: Tensor, two_NHD: Tensor, log_two_HN: Tensor) -> Tensor:
    """Attention over two sets of keys from that over each: their mean by normaliser, in float32 within."""
    largest = torch.maximum(log_one_HN, log_two_HN)
    weight_one, weight_two = (log_one_HN - largest).exp(), (log_two_HN - largest).exp()
    share_NH1 = (weight_one / (weight_one + weight_two)).t()[..., None]
    return torch.lerp(two_NHD.float(), one_NHD.float(), share_NH1).to(one_NHD.dtype)


def disagreement(device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference of two attentions added, a causal one and one over a prompt, from float32 attention over both;
    three segments of unequal lengths after two prompts, with shared key heads."""
    rng = torch.Generator().manual_seed(0)
    heads, shared, dim, scale = 4, 2, 64, 0.2
    prompts, groups, segments = [0, 5, 12], [0, 12, 15], [0, 9, 12, 15]
    belongs = [0, 0, 1]
    sizes = ((15, heads), (27, shared), (27, shared))
    query, key, value = (torch.randn(n, h, dim, generator=rng).to(device, dtype) for n, h in sizes)
    own = slice(12, 27)
    bounds = [torch.tensor(b, dtype=torch.int32, device=device) for b in (segments, groups, prompts)]
    out, logs = attend(query, key[own], value[own], bounds[0], bounds[0], (9, 9), causal=True, scale=scale)
    rest, rest_logs = attend(query, key[:12], value[:12], bounds[1], bounds[2], (12, 7), causal=False, scale=scale)
    found, worst = add(out, logs, rest, rest_logs), 0.0
    for segment, group in enumerate(belongs):
        places = range(*segments[segment : segment + 2])
        before = list(range(*prompts[group : group + 2]))
        for place in places:
            seen = [*before, *(12 + p for p in places if p <= place)]
            k, v = (x[seen].float().repeat_interleave(heads // shared, dim=1) for x in (key, value))
            weight = torch.einsum("hd,mhd->hm", query[place].float(), k).mul(scale).softmax(-1)
            wanted = torch.einsum("hm,mhd->hd", weight, v)
            worst = max(worst, float((found[place].float() - wanted).abs().max()))
    return worst


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    longest_query: int,
    longest_key: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    varlen = import_module("torch.nn.attention.varlen")
    known = inspect.signature(varlen.varlen_attn).parameters  # grew between versions
    query, key, value, options = varlen_call(known, query, key, value, scale=scale, causal=causal)
    options["return_aux"] = varlen.AuxRequest(lse=True)
    bounds = query_bounds, key_bounds, longest_query, longest_key
    output, log_normaliser = varlen.varlen_attn(query, key, value, *bounds, **options)
    return output, log_normaliser


def _plain(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, key_bounds: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    shared = query.shape[1] // key.shape[1]
    outputs, logs = [], []
    bounds = (b.tolist() for b in (query_bounds[:-1], query_bounds[1:], key_bounds[:-1], key_bounds[1:]))
    for q0, q1, k0, k1 in zip(*bounds, strict=True):
        # [H, T, D]; a key head serves `shared` query heads in a row.
        q = query[q0:q1].transpose(0, 1).float()
        k, v = (x[k0:k1].transpose(0, 1).repeat_interleave(shared, dim=0).float() for x in (key, value))
        scores = q @ k.transpose(1, 2) * scale
        if causal:
            unseen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool, device=q.device).triu(1)
            scores.masked_fill_(unseen, -torch.inf)
        logs.append(scores.logsumexp(-1))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1).to(query.dtype))
    return torch.cat(outputs), torch.cat(logs, dim=1)
