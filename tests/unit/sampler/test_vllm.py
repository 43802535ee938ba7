"""What is made of vLLM's outputs, without vLLM: its records have these attributes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rgopd.sampler.vllm import _sample


def output(reason: str, *ids: int) -> SimpleNamespace:
    """Two columns of a top 1: the sampled id, then the likeliest."""
    flat = SimpleNamespace(token_ids=[i for t in ids for i in (t, 7)], logprobs=[-0.5, -0.25] * len(ids))
    return SimpleNamespace(token_ids=list(ids), finish_reason=reason, logprobs=flat)


def test_a_finished_rollout_is_taken() -> None:
    sample = _sample(output("stop", 3, 4))
    np.testing.assert_array_equal(sample.response_ids_T, [3, 4])
    np.testing.assert_array_equal(sample.support_ids_TK, [[7], [7]])
    assert sample.finished
    assert not _sample(output("length", 3)).finished


@pytest.mark.parametrize("given_up", [output("abort", 3, 4), output("error"), output("stop"), output("length")])
def test_one_that_was_given_up_is_no_response(given_up: SimpleNamespace) -> None:
    assert not len(_sample(given_up).response_ids_T)
