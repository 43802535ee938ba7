"""Scores from log-probs that another program computed: a few columns a row, or the full vocabulary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rgopd.teacher.engines import EngineFault
from rgopd.teacher.items import OWN_ID, PAD_ID, PAD_LOGPROB, TAIL_FLOOR, Float, Int, Score, ScoreItem, Scoring


def score_from_columns(item: ScoreItem, sampled_T: Float, ids_TK: Int, topk_TK: Float) -> Score:
    """A score from log-probs at known ids; the tail is log(1 - sum exp), all that can be known from K ids.

    Raises:
        EngineFault: NaN, or rows that do not fit the rollout.
    """
    rows = len(item.response_ids_T)
    if sampled_T.shape != (rows,) or topk_TK.shape != ids_TK.shape or len(ids_TK) != rows:
        raise EngineFault(f"engine answered rows {sampled_T.shape}, {topk_TK.shape} for {rows} response ids")
    if np.isnan(sampled_T).any() or np.isnan(topk_TK).any():
        raise EngineFault("the teacher produced NaN log-probs; check its weights and dtype (float16 overflows)")
    sampled_T = np.maximum(sampled_T, PAD_LOGPROB, dtype=np.float32)
    if item.scoring.support == "none":
        return Score(sampled_T)
    topk_TK = np.maximum(topk_TK, PAD_LOGPROB, dtype=np.float32)
    topk_TK = np.where(ids_TK == PAD_ID, np.float32(PAD_LOGPROB), topk_TK)
    return Score(sampled_T, ids_TK, topk_TK, tail_from_topk(topk_TK))


def tail_from_topk(topk_TK: Float) -> Float:
    """float32[T]: log(1 - sum_k exp(topk)), not below TAIL_FLOOR. Summed in float64: 1 - sum cancels."""
    mass_T = np.exp(topk_TK.astype(np.float64)).sum(-1)
    tail_T: Float = np.log(np.maximum(1.0 - mass_T, np.exp(TAIL_FLOOR))).astype(np.float32)
    # float32 may round log(exp(floor)) below the floor.
    return np.maximum(tail_T, np.float32(TAIL_FLOOR))


def score_from_full(item: ScoreItem, logprobs_TV: Float, temperature: float) -> Score:
    """A score from full rows of log-probs, whose columns are the shared vocabulary; `temperature` is still to apply.

    Scaling log-probs by 1/temperature and normalising again is the same as scaling the logits, and normalising
    over the shared columns alone takes the mass of surplus ids away.
    """
    if logprobs_TV.shape[0] != len(item.response_ids_T):
        raise EngineFault(f"engine answered {len(logprobs_TV)} rows for {len(item.response_ids_T)} response ids")
    scaled_TV = logprobs_TV.astype(np.float64) / temperature
    scaled_TV -= scaled_TV.max(-1, keepdims=True)
    scaled_TV -= np.log(np.exp(scaled_TV).sum(-1, keepdims=True))
    sampled_T = np.take_along_axis(scaled_TV, item.response_ids_T[:, None], 1)[:, 0].astype(np.float32)
    if item.scoring.support == "teacher":
        ids_TK = _top_ids(scaled_TV, item.scoring.k)
    elif item.support_ids_TK is not None:
        own_T1 = item.support_ids_TK[:, :1] == OWN_ID
        ids_TK = (
            np.where(own_T1, _top_ids(scaled_TV, item.scoring.k), item.support_ids_TK)
            if own_T1.any()
            else item.support_ids_TK
        )
    else:
        ids_TK = np.empty((len(sampled_T), 0), np.int32)
    topk_TK = np.take_along_axis(scaled_TV, np.maximum(ids_TK, 0), 1)
    return score_from_columns(item, sampled_T, ids_TK, topk_TK.astype(np.float32))


def split_own(item: ScoreItem) -> tuple[ScoreItem | None, ScoreItem]:
    """An item with rows of OWN_ID as two for an engine that is asked for named ids or for its top k: the named ids
    (None where there are none), and the top k of every row."""
    assert item.support_ids_TK is not None, "validated before it was queued"
    named_TK = np.where(item.support_ids_TK == OWN_ID, PAD_ID, item.support_ids_TK)
    named = replace(item, support_ids_TK=named_TK, scoring=replace(item.scoring, own_rows=False))
    top = replace(item, support_ids_TK=None, scoring=Scoring("teacher", item.scoring.k, item.scoring.temperature))
    return (named if (named_TK != PAD_ID).any() else None), top


def join_own(item: ScoreItem, named: Score | None, top: Score) -> Score:
    """One score out of those of `split_own`."""
    assert item.support_ids_TK is not None, "validated before it was queued"
    assert top.topk_logprobs_TK is not None, "support teacher has it"
    assert top.tail_logprob_T is not None, "support teacher has it"
    own_T = item.support_ids_TK[:, 0] == OWN_ID
    if named is None:
        topk_TK = np.where(own_T[:, None], top.topk_logprobs_TK, np.float32(PAD_LOGPROB))
        return Score(
            top.sampled_logprobs_T, item.support_ids_TK, topk_TK, np.where(own_T, top.tail_logprob_T, np.float32(0))
        )
    assert named.topk_logprobs_TK is not None, "support student has it"
    assert named.tail_logprob_T is not None, "support student has it"
    topk_TK = np.where(own_T[:, None], top.topk_logprobs_TK, named.topk_logprobs_TK)
    tail_T = np.where(own_T, top.tail_logprob_T, named.tail_logprob_T)
    return Score(named.sampled_logprobs_T, item.support_ids_TK, topk_TK, tail_T)


def _top_ids(logprobs_TV: np.ndarray[tuple[int, int], np.dtype[np.float64]], k: int) -> Int:
    part = np.argpartition(-logprobs_TV, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(logprobs_TV, part, 1), axis=1, kind="stable")
    return np.take_along_axis(part, order, 1).astype(np.int32)
