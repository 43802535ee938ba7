"""Families as teachers in a real vLLM: scores of given ids against the model's own log-probs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rgopd.common.errors import ConfigError
from rgopd.sampler.engine import Sample, SampleSpec
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import make_engine
from rgopd.teacher.items import ScoreItem, Scoring
from tests.families.families import FAMILIES
from tests.families.pipeline import TEMPERATURE, K, own_model, prompts, worst_of_scores
from tests.vllm.families.one import ARGUMENTS, build, plain
from tests.vllm.families.test_vllm_families import BY_NAME, TOLERANCE

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

EXACT = ("llama", "gemma2", "granite", "cohere", "mixtral")
"""Soft-caps, factors on the logits, and experts, of which nothing is reloaded."""
REFUSED = {
    "hrm_text": "the tokens of a prompt see those after them",
    "jetmoe": "0.02 nats off the model's own",
    "apertus": "holds numbers of its activation (xIELU) in bfloat16",
}


def rollouts() -> tuple[list[SampleSpec], list[Sample]]:
    """Prompts of unequal lengths, and responses that no model sampled, with supports anywhere."""
    rng, specs = np.random.default_rng(1), prompts()
    ids = [rng.integers(3, 60, 9, dtype=np.int32) for _ in specs]
    supports = [np.stack([rng.permutation(np.arange(4, 100, dtype=np.int32))[:K] for _ in i]) for i in ids]
    return specs, [Sample(i, np.zeros(9, np.float32), s, False) for i, s in zip(ids, supports, strict=True)]


@pytest.mark.parametrize("name", EXACT)
def test_scores_are_the_models_own(name: str, tmp_path: Path) -> None:
    folder = build(BY_NAME[name], tmp_path)
    model, (specs, samples) = plain(own_model(folder)), rollouts()
    engine = make_engine(TeacherConfig(model=str(folder), engine="vllm", dtype="float32", vllm=ARGUMENTS))
    scoring = Scoring("student", K, TEMPERATURE)
    items = [
        ScoreItem(f"r{i}", spec.prompt_ids_C, s.response_ids_T, scoring, s.support_ids_TK)
        for i, (spec, s) in enumerate(zip(specs, samples, strict=True))
    ]
    try:
        scores = engine.score(items)
    finally:
        engine.close()
    assert worst_of_scores(model, specs, samples, scores) < TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_by_its_config(name: str, tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    folder = build(family, tmp_path)
    with pytest.raises(ConfigError) as told:
        make_engine(TeacherConfig(model=str(folder), engine="vllm", dtype="float32", vllm=ARGUMENTS))
    assert REFUSED[name] in str(told.value)
    assert f"(model_type {family.model_type!r})" in str(told.value)
    assert "set engine=transformers" in str(told.value)
    assert "\n" not in str(told.value)
