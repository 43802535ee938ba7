"""The embedded engine: one decoder forward, then the vocabulary head in chunks of rows.

The peak beyond weights and hidden states is one float32 [head_chunk_rows, vocabulary] buffer (plus the head's
own output when the model is not float32), whatever the number or length of the rollouts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rgopd.teacher.engines import EngineFault, EngineInfo
from rgopd.teacher.engines.forward import plan_batches, response_states
from rgopd.teacher.engines.loading import LoadedModel, load_model
from rgopd.teacher.items import PAD_ID, PAD_LOGPROB, TAIL_FLOOR, Score, ScoreItem, Scoring

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)


class _Rows(NamedTuple):
    """Scores of R response rows, float32 on the CPU."""

    sampled_R: Tensor
    ids_RK: Tensor
    topk_RK: Tensor
    tail_R: Tensor


def score_rows(
    logits_RV: Tensor, sampled_ids_R: Tensor, support_ids_RK: Tensor | None, scoring: Scoring, vocab_size: int
) -> _Rows:
    """Exact log-probs at the sampled and the support ids, and the log of the mass outside the support.

    Args:
        logits_RV: float32, overwritten (the buffer is reused in place: it is the peak of the whole engine).
        sampled_ids_R: int64, below vocab_size.
        support_ids_RK: int64 with PAD_ID allowed; None with support "teacher" or "none".
        scoring: support kind, k and temperature.
        vocab_size: ids from here on are masked before the softmax.

    The tail is summed over the complement rather than taken as 1 - sum: that keeps its relative precision
    when the support holds nearly everything.
    """
    logits_RV = logits_RV[:, :vocab_size]
    if scoring.temperature != 1.0:
        logits_RV.div_(scoring.temperature)
    logits_RV.sub_(logits_RV.amax(-1, keepdim=True))
    sampled_R = logits_RV.gather(1, sampled_ids_R[:, None])[:, 0]
    if scoring.support == "teacher":
        topk_RK, ids_RK = logits_RV.topk(scoring.k, dim=-1)
    elif support_ids_RK is not None:
        ids_RK = support_ids_RK
        topk_RK = logits_RV.gather(1, ids_RK.clamp(min=0))
    else:
        ids_RK = sampled_ids_R.new_empty((len(sampled_ids_R), 0))
        topk_RK = logits_RV.new_empty((len(sampled_ids_R), 0))
    weights_RV = logits_RV.exp_()
    total_R = weights_RV.sum(-1)
    log_total_R = total_R.log()
    sampled_R = (sampled_R - log_total_R).clamp(min=PAD_LOGPROB)
    topk_RK = (topk_RK - log_total_R[:, None]).clamp(min=PAD_LOGPROB)
    topk_RK = topk_RK.masked_fill(ids_RK == PAD_ID, PAD_LOGPROB)
    tail_R = log_total_R
    if ids_RK.shape[1]:
        # A padded id is pointed at its row's first real id, which is zeroed anyway; a row of nothing but
        # pads keeps its whole mass in the tail.
        real_RK = ids_RK != PAD_ID
        first_R1 = ids_RK.gather(1, real_RK.int().argmax(1, keepdim=True)).clamp(min=0)
        keep_R1 = torch.where(real_RK.any(1, keepdim=True), 0.0, weights_RV.gather(1, first_R1))
        index_RK = torch.where(real_RK, ids_RK, first_R1)
        weights_RV.scatter_(1, index_RK, keep_R1.expand_as(index_RK))
        tail_R = (weights_RV.sum(-1).log() - log_total_R).clamp(min=TAIL_FLOOR)
    return _Rows(sampled_R.cpu(), ids_RK.cpu(), topk_RK.cpu(), tail_R.cpu())


def head_float32(head: nn.Module, hidden_RH: Tensor, block: int = 16_384) -> Tensor:
    """float32 logits [R, V], also of a bfloat16 or float16 head.

    Logits rounded to bfloat16 are off by up to 0.06 at 16; the products are the same numbers in float32, so only
    the sum has to be kept wide. Off CUDA that takes a float32 copy of `block` rows of the head at a time.
    """
    weight = getattr(head, "weight", None)
    if type(head) is not nn.Linear or weight is None or weight.dtype == torch.float32:
        logits: Tensor = head(hidden_RH)
        return logits.float()
    if weight.is_cuda:
        logits_RV = torch.mm(hidden_RH, weight.t(), out_dtype=torch.float32)
    else:
        logits_RV = hidden_RH.new_empty((len(hidden_RH), len(weight)), dtype=torch.float32)
        wide_RH = hidden_RH.float()
        for start in range(0, len(weight), block):
            ids = slice(start, start + block)
            logits_RV[:, ids] = wide_RH @ weight[ids].float().t()
    return logits_RV if head.bias is None else logits_RV.add_(head.bias.float())


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
    ) -> None:
        self._models: list[tuple[LoadedModel, float]] = [(loaded, 1.0)]
        self._device = next(loaded.decoder.parameters()).device
        self._info = info
        self._max_batch_tokens = max_batch_tokens
        self._chunk = head_chunk_rows
        self._deterministic = deterministic
        self._threads = threads
        # Other caches (sliding window, recurrent states) are not repeated for a group: each rollout has its own.
        config: Any = loaded.decoder.config
        config = config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        self._can_share = kinds == {"full_attention"} and not getattr(config, "sliding_window", None)

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
            for batch, shared in self._batches(items):
                scores.update(zip(batch, self._score_batch([items[i] for i in batch], shared), strict=True))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EngineFault(f"out of GPU memory; lower max_batch_tokens or head_chunk_rows: {error}") from error
        return [scores[i] for i in range(len(items))]

    def _batches(self, items: Sequence[ScoreItem]) -> Iterator[tuple[list[int], bool]]:
        if self._deterministic:
            return iter([([i], False) for i in range(len(items))])
        return plan_batches(items, self._max_batch_tokens, self._can_share)

    def _score_batch(self, items: list[ScoreItem], shared: bool) -> list[Score]:
        hidden = [response_states(model.decoder, items, self._device, shared) for model, _ in self._models]
        scoring = items[0].scoring
        sampled_R = self._tensor(np.concatenate([i.response_ids_T for i in items]))
        support_RK = None
        if scoring.support == "student":
            support_RK = self._tensor(np.concatenate([_support(i) for i in items]))
        parts = []
        for start in range(0, len(sampled_R), self._chunk):
            rows = slice(start, start + self._chunk)
            parts.append(
                score_rows(
                    self._logits([hidden_RH[rows] for hidden_RH in hidden]),
                    sampled_R[rows],
                    None if support_RK is None else support_RK[rows],
                    scoring,
                    self._info.vocab_size,
                )
            )
        return _split(_Rows(*(torch.cat(column) for column in zip(*parts, strict=True))), items)

    def _logits(self, hidden: list[Tensor]) -> Tensor:
        total_RV: Tensor | None = None
        for (model, share), hidden_RH in zip(self._models, hidden, strict=True):
            logits_RV = model.logit_transform(head_float32(model.head, hidden_RH))
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


def _split(rows: _Rows, items: list[ScoreItem]) -> list[Score]:
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
