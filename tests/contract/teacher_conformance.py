"""What every engine must get right, and the plain forward it is held to. Used by the tests of all engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.teacher.items import OWN_ID, PAD_LOGPROB, TAIL_FLOOR, Score, ScoreItem, Scoring, SupportKind

VOCAB, SHARED, EOS = 320, 300, 2
Case = Callable[[np.random.Generator], list[ScoreItem]]


def save_tiny_qwen2(path: Path, spread: float = 15) -> Path:
    """A random two-layer Qwen2 with 20 surplus ids; its logits' standard deviation is about spread / 6.

    bfloat16 arithmetic errs in proportion to it: 3e-2 nats is what a spread of 8 allows at 4 sigma.
    """
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=False, eos_token_id=EOS,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.lm_head.weight.data.mul_(spread)
    # Real checkpoints are bfloat16: what is held to a tolerance is the engine's arithmetic, not their rounding.
    model.to(torch.bfloat16).save_pretrained(path)
    return path


def rollout(
    rng: np.random.Generator,
    prompt: int | np.ndarray,
    response: int | np.ndarray,
    support: SupportKind = "student",
    k: int = 8,
    temperature: float = 1.0,
) -> ScoreItem:
    """Random ids where a length is given, the given ids otherwise."""
    prompt_ids = rng.integers(0, SHARED, prompt, dtype=np.int32) if isinstance(prompt, int) else prompt
    response_ids = rng.integers(0, SHARED, response, dtype=np.int32) if isinstance(response, int) else response
    ids = None
    if support == "student":
        ids = np.stack([rng.permutation(SHARED)[:k] for _ in response_ids]).astype(np.int32)
    name = f"r{rng.integers(1 << 40)}"
    return ScoreItem(name, prompt_ids, response_ids, Scoring(support, 0 if support == "none" else k, temperature), ids)


def _shared_prefix(rng: np.random.Generator) -> list[ScoreItem]:
    prompt = rng.integers(0, SHARED, 70, dtype=np.int32)
    return [rollout(rng, prompt, length) for length in (5, 30, 1, 18)]


def _shared_response_prefix(rng: np.random.Generator) -> list[ScoreItem]:
    prompt, response = rng.integers(0, SHARED, 40, dtype=np.int32), rng.integers(0, SHARED, 60, dtype=np.int32)
    return [rollout(rng, prompt, response[:n].copy()) for n in (60, 48, 33)]


def _replayed(rng: np.random.Generator) -> list[ScoreItem]:
    item = rollout(rng, 33, 40)
    return [item, replace(item, id=item.id + "b")]


def _eos_inside(rng: np.random.Generator) -> list[ScoreItem]:
    response = rng.integers(0, SHARED, 40, dtype=np.int32)
    response[[0, 7, 8, 20, 39]] = EOS
    return [rollout(rng, 10, response)]


def _padded(rng: np.random.Generator) -> list[ScoreItem]:
    item = rollout(rng, 10, 20)
    assert item.support_ids_TK is not None
    item.support_ids_TK[rng.random((20, 8)) < 0.4] = -1
    item.support_ids_TK[3] = -1
    return [item]


def _own_rows(rng: np.random.Generator, temperature: float = 1.0) -> list[ScoreItem]:
    """Rows of the teacher's own top k among named ones, and in an item without named ones."""
    items = [rollout(rng, 10, 20, temperature=temperature), rollout(rng, 5, 6, temperature=temperature)]
    some, only = (item.support_ids_TK for item in items)
    assert some is not None
    assert only is not None
    some[3], some[7, :4], some[[0, 5, 19]] = -1, -1, OWN_ID
    only[:], only[[1, 4]] = -1, OWN_ID
    return [replace(item, scoring=replace(item.scoring, own_rows=True)) for item in items]


CASES: dict[str, Case] = {
    "random ids": lambda rng: [rollout(rng, int(c), int(t)) for c, t in rng.integers(1, 60, (12, 2))],
    "long prompts": lambda rng: [rollout(rng, c, t) for c, t in ((900, 20), (700, 90), (500, 1))],
    "one-token responses": lambda rng: [rollout(rng, c, 1) for c in (1, 2, 17, 64)],
    "one-token prompts": lambda rng: [rollout(rng, 1, t) for t in (1, 16, 50)],
    "shared prefixes": _shared_prefix,
    "shared response prefixes": _shared_response_prefix,
    "a replayed rollout": _replayed,
    "EOS in the middle": _eos_inside,
    "K=1": lambda rng: [rollout(rng, 9, 12, k=1)],
    "K=vocabulary": lambda rng: [rollout(rng, 9, 12, k=SHARED)],
    "padded support": _padded,
    "temperature 0.7": lambda rng: [rollout(rng, 9, 12, temperature=0.7), rollout(rng, 20, 3, temperature=0.7)],
    "temperature 1.3": lambda rng: [rollout(rng, 9, 12, temperature=1.3)],
    "teacher support": lambda rng: [rollout(rng, 9, 12, "teacher", 5), rollout(rng, 30, 3, "teacher", 5)],
    "teacher support at a temperature": lambda rng: [rollout(rng, 9, 12, "teacher", 5, 0.7)],
    "teacher support, K=vocabulary": lambda rng: [rollout(rng, 9, 12, "teacher", SHARED)],
    "rows of the teacher's own": _own_rows,
    "rows of the teacher's own at a temperature": lambda rng: _own_rows(rng, 0.7),
    "no support": lambda rng: [rollout(rng, 9, 12, "none"), rollout(rng, 90, 33, "none")],
    "no support at a temperature": lambda rng: [rollout(rng, 9, 12, "none", temperature=0.7)],
}


class Reference:
    """float64 log-probs [T, SHARED] of an unpadded, unchunked float32 transformers forward."""

    def __init__(self, model_dir: Path) -> None:
        self.model = Qwen2ForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()

    @torch.inference_mode()
    def __call__(self, item: ScoreItem) -> np.ndarray:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
        logits = self.model(ids).logits[0, len(item.prompt_ids_C) - 1 : -1, :SHARED].double()
        return (logits / item.scoring.temperature).log_softmax(-1).numpy()


def largest_errors(
    items: Sequence[ScoreItem], scores: Sequence[Score], reference: Callable[[ScoreItem], np.ndarray]
) -> dict[str, float]:
    """Largest absolute differences: `sampled` and `topk` in nats, `tail` in probability mass.

    Teacher support is judged by the values, since near-equal log-probs may change places.
    """
    errors = {"sampled": 0.0, "topk": 0.0, "tail": 0.0}
    for item, score in zip(items, scores, strict=True):
        exact_TV = reference(item)
        rows = np.arange(len(exact_TV))
        assert score.sampled_logprobs_T.shape == rows.shape
        assert score.sampled_logprobs_T.dtype == np.float32
        _worst(errors, "sampled", score.sampled_logprobs_T - exact_TV[rows, item.response_ids_T])
        if item.scoring.support == "none":
            assert score.topk_logprobs_TK is None
            continue
        ids_TK, topk_TK, tail_T = score.topk_ids_TK, score.topk_logprobs_TK, score.tail_logprob_T
        assert ids_TK is not None
        if item.scoring.own_rows:  # whether an engine names those ids is its own affair
            assert item.support_ids_TK is not None
            own_T1 = item.support_ids_TK[:, :1] == OWN_ID
            ids_TK = np.where(own_T1, np.argsort(-exact_TV, axis=1)[:, : item.scoring.k], item.support_ids_TK)
        assert topk_TK is not None
        assert tail_T is not None
        assert ids_TK.shape == topk_TK.shape == (len(rows), item.scoring.k)
        assert np.isfinite(topk_TK).all()
        assert (tail_T >= np.float32(TAIL_FLOOR)).all()
        assert (topk_TK[ids_TK == -1] == PAD_LOGPROB).all()
        _worst(errors, "topk", np.where(ids_TK < 0, 0, topk_TK - np.take_along_axis(exact_TV, ids_TK.clip(0), 1)))
        if item.scoring.support == "teacher":
            assert all(len(set(row)) == item.scoring.k for row in ids_TK.tolist())
            _worst(errors, "topk", topk_TK - -np.sort(-exact_TV, axis=1)[:, : item.scoring.k])
        mass_T = np.where(ids_TK < 0, 0, np.exp(np.take_along_axis(exact_TV, ids_TK.clip(0), 1))).sum(-1)
        _worst(errors, "tail", np.exp(tail_T) - (1 - mass_T))
    return errors


def _worst(errors: dict[str, float], name: str, difference: np.ndarray) -> None:
    errors[name] = max(errors[name], float(np.abs(difference).max()))
