"""Model families in a real vLLM, one after the other in this process (`make test-vllm-families`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.common.errors import ConfigError
from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.main import make_engine
from tests.families.build import composed, tiny_config
from tests.families.families import FAMILIES
from tests.families.in_vllm import IN_VLLM, REFUSED_BEFORE_VLLM, REFUSED_IN_VLLM
from tests.vllm.families.one import ARGUMENTS, build, run_in_vllm

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
TOLERANCE = 2e-4
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("name", IN_VLLM)
def test_its_log_probs_are_the_models_own_before_and_after_a_reload(name: str, tmp_path: Path) -> None:
    found = run_in_vllm(BY_NAME[name], tmp_path)
    assert found.sampled < TOLERANCE
    assert found.resampled < TOLERANCE


@pytest.mark.parametrize("name", REFUSED_BEFORE_VLLM)
def test_refused_in_one_line_by_its_config(name: str, tmp_path: Path) -> None:
    family = BY_NAME[name]
    tiny_config(family.model_type, **family.config, **composed(family.parts)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as told:
        make_engine(SamplerConfig(student=str(tmp_path), engine="vllm"))
    assert REFUSED_BEFORE_VLLM[name] in str(told.value)
    assert f"(model_type {family.model_type!r})" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", REFUSED_IN_VLLM)
def test_refused_in_one_line_before_it_samples(name: str, tmp_path: Path) -> None:
    folder = build(BY_NAME[name], tmp_path)
    with pytest.raises(ConfigError) as told:
        make_engine(SamplerConfig(student=str(folder), engine="vllm", vllm=ARGUMENTS))
    assert REFUSED_IN_VLLM[name] in str(told.value)
    assert "\n" not in str(told.value)
