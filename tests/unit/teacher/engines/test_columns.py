"""Rows of the teacher's own top k from engines that give named ids or a top k, never both in one request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.columns import join_own, score_from_full, split_own
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import OWN_ID
from tests.contract.teacher_conformance import SHARED, Reference, largest_errors, rollout, save_tiny_qwen2


def test_two_requests_make_the_score_of_one(tmp_path: Path) -> None:
    folder = save_tiny_qwen2(tmp_path)
    config = TeacherConfig(model=str(folder), dtype="float32", device="cpu", shared_vocab_size=SHARED, max_k=SHARED)
    engine, reference = TransformersEngine.load(config), Reference(folder)
    rng = np.random.default_rng(0)
    for some in (True, False):
        item = rollout(rng, 9, 12, k=5, temperature=0.7)
        assert item.support_ids_TK is not None
        item.support_ids_TK[[2, 3]] = -1
        item.support_ids_TK[np.arange(12) % (2 if some else 1) == 0] = OWN_ID
        item = replace(item, scoring=replace(item.scoring, own_rows=True))
        named, top = split_own(item)
        assert (named is not None) == some
        score = join_own(item, engine.score([named])[0] if named else None, engine.score([top])[0])
        errors = largest_errors([item], [score], reference)
        assert max(errors.values()) < 1e-4
        full = score_from_full(item, reference(item).astype(np.float32), temperature=1.0)
        assert max(largest_errors([item], [full], reference).values()) < 1e-4
        [whole] = engine.score([item])
        assert whole.topk_logprobs_TK is not None
        assert np.allclose(score.topk_logprobs_TK, whole.topk_logprobs_TK, atol=1e-4)
        assert np.allclose(score.tail_logprob_T, whole.tail_logprob_T, atol=1e-3)
