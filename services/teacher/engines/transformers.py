"""The embedded engine: one decoder forward, then the vocabulary head in chunks of rows.

The peak beyond weights and hidden states is one float32 [head_chunk_rows, vocabulary] buffer (plus the head's
own output when the model is not float32), whatever the number or length of the rollouts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rgopd.common.head import AfterHead
from rgopd.teacher.engines import EngineFault, EngineInfo
from rgopd.teacher.engines.forward import plan_batches, response_states
from rgopd.teacher.engines.loading import LoadedModel, load_model
from rgopd.teacher.engines.packed import enable, packed_states
from rgopd.teacher.engines.rows import Kernels, RowScores, apply_after, choose, head_float32
from rgopd.teacher.engines.sharing import plan_rows
from rgopd.teacher.items import Score, ScoreItem

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

Batching = Literal["auto", "padded", "packed"]
States = Callable[[nn.Module, Sequence[ScoreItem]], Tensor]


class TransformersEngine:
    """Any decoder-only Hugging Face model, on CPU or one GPU, without gradients."""

    concurrency = 1
    recovers = False

    def __init__(
        self,
        loaded: LoadedModel,
        info: EngineInfo,
        *,
        max_batch_tokens: int = 16384,
        head_chunk_rows: int = 1024,
        deterministic: bool = False,
        threads: int = 0,
        head_kernels: Kernels = "auto",
        batching: Batching = "auto",
        share: bool = True,
    ) -> None:
        self._models: list[tuple[LoadedModel, float]] = [(loaded, 1.0)]
        self._device = next(loaded.decoder.parameters()).device
        self._info = info
        self._max_batch_tokens = max_batch_tokens
        self._chunk = head_chunk_rows
        self._deterministic = deterministic
        self._threads = threads
        self._score_rows = choose(head_kernels, self._device)
        # Other caches (sliding window, recurrent states) are not repeated for a group: each rollout has its own.
        config: Any = loaded.decoder.config
        config = config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        plain = kinds == {"full_attention"} and not getattr(config, "sliding_window", None)
        self._can_share = plain and share
        wanted = batching == "packed" or (batching == "auto" and self._device.type == "cuda")
        size = enable(loaded.decoder, self._device, info.vocab_size) if wanted and not deterministic else None
        self._packed = size is not None
        self._size = size if share else None

    @classmethod
    def load(cls, config: TeacherConfig) -> TransformersEngine:
        """Load `config.model`; refuses a model whose head this engine would compute otherwise than the model.

        Raises:
            ConfigError: no such model, or an architecture that this engine cannot score exactly.
        """
        _, loaded, info = load_model(config)
        return cls(loaded, info, **cls.options(config))

    @staticmethod
    def options(config: TeacherConfig) -> dict[str, Any]:
        """The constructor's keywords from the settings."""
        return {
            "max_batch_tokens": config.max_batch_tokens,
            "head_chunk_rows": config.head_chunk_rows,
            "deterministic": config.deterministic,
            "threads": config.threads,
            "head_kernels": config.head_kernels,
            "batching": config.batching,
        }

    @property
    def info(self) -> EngineInfo:
        """What this engine holds."""
        return self._info

    def close(self) -> None:
        """Drop the model."""
        self._models.clear()

    def trouble(self) -> str:
        """Never: the model is in this process, and lives with it."""
        return ""

    def gpu_bytes(self) -> int:
        """GPU memory that this process has reserved."""
        return int(torch.cuda.memory_reserved()) if self._device.type == "cuda" else 0

    def _add_model(self, loaded: LoadedModel, weight: float) -> None:
        """Score the weighted mean of the logits, this model's share being `weight`."""
        self._models = [(model, share * (1 - weight)) for model, share in self._models] + [(loaded, weight)]

    @torch.inference_mode()
    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Score items of one `Scoring`, in order."""
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        scores: dict[int, Score] = {}
        try:
            for batch, states in self._batches(items):
                scores.update(zip(batch, self._score_batch([items[i] for i in batch], states), strict=True))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EngineFault(f"out of GPU memory; lower max_batch_tokens or head_chunk_rows: {error}") from error
        return [scores[i] for i in range(len(items))]

    def _batches(self, items: Sequence[ScoreItem]) -> Iterator[tuple[list[int], States]]:
        """Indices of each forward, and how to make its hidden states."""
        if self._deterministic:
            for i in range(len(items)):
                yield [i], partial(response_states, device=self._device, shared=False)
        elif self._packed:
            for row in plan_rows(items, self._max_batch_tokens, self._size):
                places = itertools.count()
                units = [[next(places) for _ in unit] for unit in row]
                yield [i for unit in row for i in unit], partial(packed_states, units=units, device=self._device)
        else:
            for batch, shared in plan_batches(items, self._max_batch_tokens, self._can_share):
                yield batch, partial(response_states, device=self._device, shared=shared)

    def _score_batch(self, items: list[ScoreItem], states: States) -> list[Score]:
        hidden = [states(model.decoder, items) for model, _ in self._models]
        scoring = items[0].scoring
        sampled_R = self._tensor(np.concatenate([i.response_ids_T for i in items]))
        support_RK = None
        if scoring.support == "student":
            support_RK = self._tensor(np.concatenate([_support(i) for i in items]))
        after = self._models[0][0].after if len(self._models) == 1 else AfterHead()
        parts = []
        for start in range(0, len(sampled_R), self._chunk):
            rows = slice(start, start + self._chunk)
            named = sampled_R[rows], None if support_RK is None else support_RK[rows]
            logits_RV = self._logits([hidden_RH[rows] for hidden_RH in hidden])
            parts.append(self._score_rows(logits_RV, *named, scoring, self._info.vocab_size, after))
        # To the host at once: a copy a chunk would have the device wait for it.
        return _split(RowScores(*(torch.cat(column).cpu() for column in zip(*parts, strict=True))), items)

    def _logits(self, hidden: list[Tensor]) -> Tensor:
        """Of one model as its head gives them; of several their weighted mean, with what follows each head done."""
        if len(self._models) == 1:
            return head_float32(self._models[0][0].head, hidden[0])
        total_RV: Tensor | None = None
        for (model, share), hidden_RH in zip(self._models, hidden, strict=True):
            logits_RV = apply_after(head_float32(model.head, hidden_RH), model.after)
            if share != 1:
                logits_RV.mul_(share)
            total_RV = logits_RV if total_RV is None else total_RV.add_(logits_RV)
        assert total_RV is not None
        return total_RV

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)


def _support(item: ScoreItem) -> np.ndarray[Any, Any]:
    assert item.support_ids_TK is not None, "validated before it was queued"
    return item.support_ids_TK


def _split(rows: RowScores, items: list[ScoreItem]) -> list[Score]:
    if not bool(rows.sampled_R.isfinite().all()) or not bool(rows.topk_RK.isfinite().all()):
        raise EngineFault("the teacher produced NaN log-probs; check its weights and dtype (float16 overflows)")
    lengths = [len(item.response_ids_T) for item in items]
    columns = [torch.split(column, lengths) for column in rows]
    scores = []
    for item, sampled_T, ids_TK, topk_TK, tail_T in zip(items, *columns, strict=True):
        if item.scoring.support == "none":
            scores.append(Score(sampled_T.numpy()))
            continue
        own = item.support_ids_TK if item.scoring.support == "student" else ids_TK.numpy().astype(np.int32)
        scores.append(Score(sampled_T.numpy(), own, topk_TK.numpy(), tail_T.numpy()))
    return scores
