"""Scoring again without sampling: a model that answers from the samples of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgopd.evaluate.models import Engine


def replay_engine(samples: Sequence[Mapping[str, Any]]) -> Engine:
    """An engine whose answers are those kept; lm-eval's filters and metrics run on them as they are now."""
    from lm_eval.api.model import LM

    kept = {(str(s["task"]), int(s["doc_id"])): s for s in samples}

    class Replay(LM):  # type: ignore[misc]  # lm-eval has no types
        """Looks each request up by task and document."""

        tokenizer = None

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [kept[r.task_name, r.doc_id]["response"] for r in requests]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            answers = [kept[r.task_name, r.doc_id]["loglikelihoods"][r.idx] for r in requests]
            return [(value, greedy) for value, greedy in answers]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("no pinned task is scored by rolling likelihood")

    return Engine(Replay(), "server")
