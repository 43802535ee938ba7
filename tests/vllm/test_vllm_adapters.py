"""LoRA versions that are adapters alone, on real vLLM: exact, and no version sees the cache of another."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rgopd.common.errors import ConfigError
from rgopd.sampler.adapter import Merger
from rgopd.sampler.engine import SampleSpec
from rgopd.sampler.vllm import VllmSampler
from rgopd.trainer.student.adapter import write_adapter
from rgopd.trainer.student.lora import LoraOptions
from tests.vllm.test_vllm_sampler import ENGINE, check, run

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
STUDENT = str(files("rgopd.trainer.demo") / "checkpoints" / "teacher")
OPTIONS = LoraOptions(r=4, alpha=8.0, publish="adapter")


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmSampler]:
    engine = VllmSampler(STUDENT, arguments=ENGINE, lora_rank=OPTIONS.r)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of adapters: at the start (B = 0), and two that are far from it and from each other."""
    root, folders = tmp_path_factory.mktemp("policies"), []
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    linear = {n: m for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    for version in range(3):
        rng, state = torch.Generator().manual_seed(version), {}
        for name, module in linear.items():
            a = torch.randn(OPTIONS.r, module.in_features, generator=rng) / module.in_features**0.5
            b = 0.2 * torch.randn(module.out_features, OPTIONS.r, generator=rng) * (version > 0)
            state |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        folders.append(root / f"v{version:08d}")
        write_adapter(folders[-1], state, OPTIONS, STUDENT)
    return folders


def merged(folder: Path) -> object:
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
    model.load_state_dict(Merger(STUDENT).merged(folder), strict=False)
    return model


def specs(engine: VllmSampler) -> list[SampleSpec]:
    """One long prompt for all: its blocks are in the prefix cache from the first row on."""
    text = engine.tokenizer("12+30=42; def f(x): return x*2; 7-5=2; 3*3=9; 12+30=")["input_ids"]
    return [SampleSpec(np.array(text, np.int32), seed) for seed in range(4)]


def test_every_version_is_its_own_whatever_was_cached_before(engine: VllmSampler, versions: list[Path]) -> None:
    """The same prompt under each version, forwards and back again; temperature and head work as without adapters."""
    wanted = specs(engine)
    assert len(wanted[0].prompt_ids_C) >= ENGINE["block_size"], "or nothing is cached"
    for folder in (versions[0], versions[1], versions[2], versions[1]):
        engine.load_weights(folder)
        check(merged(folder), wanted, run(engine, wanted, temperature=0.8, max_new_tokens=20), 0.8)
    assert list(engine._llm.llm_engine.list_loras()) == [engine._adapter.lora_int_id], "old versions are let go"


def test_whole_weights_are_refused_where_adapters_are_expected(engine: VllmSampler) -> None:
    with pytest.raises(ConfigError, match="holds whole weights: unset lora_rank"):
        engine.load_weights(Path(STUDENT))
