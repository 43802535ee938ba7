"""Which engine samples from a student, decided from config.json alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from rgopd.common.errors import ConfigError
from rgopd.sampler import architecture
from rgopd.sampler.architecture import check_student_architecture, engine_here
from rgopd.sampler.config import SamplerConfig
from tests.families.build import composed, tiny_config
from tests.families.families import FAMILIES


def folder_of(kind: str, folder: Path) -> str:
    family = next(family for family in FAMILIES if family.name == kind)
    tiny_config(kind, **family.config, **composed(family.parts)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def gpu_with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the choice depends on: a machine that this one need not be."""
    monkeypatch.setattr(architecture, "_vllm_is_here", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("gpu_with_vllm")
@pytest.mark.parametrize(("kind", "text"), [("gemma3n_text", "Gemma 3n"), ("gemma3", "more than text")])
def test_auto_leaves_to_transformers_what_vllm_cannot_do(
    kind: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = folder_of(kind, tmp_path)
    config = SamplerConfig(student=student)
    check_student_architecture(config)
    with caplog.at_level(logging.WARNING):
        assert engine_here(config) == "transformers"
    assert text in caplog.text
    assert student in caplog.text
    with pytest.raises(ConfigError, match="set sampler.engine=transformers") as told:
        check_student_architecture(SamplerConfig(student=student, engine="vllm"))
    assert f"(model_type {kind!r})" in str(told.value)
    assert text in str(told.value)


@pytest.mark.usefixtures("gpu_with_vllm")
def test_adapters_need_no_reload(tmp_path: Path) -> None:
    student = folder_of("gemma3n_text", tmp_path)
    config = SamplerConfig(student=student, lora_rank=8)
    check_student_architecture(config)
    assert engine_here(config) == "vllm"


@pytest.mark.usefixtures("gpu_with_vllm")
def test_auto_is_vllm_where_it_is_exact(tmp_path: Path) -> None:
    config = SamplerConfig(student=folder_of("llama", tmp_path))
    check_student_architecture(config)
    assert engine_here(config) == "vllm"


@pytest.mark.usefixtures("gpu_with_vllm")
@pytest.mark.parametrize(
    ("kind", "dtype", "text"),
    [
        ("apertus", "float32", "xIELU"),
        ("apertus", "bfloat16", ""),
        ("ctrl", "float32", "bias of a head"),
        ("hrm_text", "bfloat16", "see those after them"),
        ("codegen", "float32", "no code for it"),
        ("youtu", "float32", "latent attention"),
        ("lfm2", "float32", "conv_dim and block_dim"),
        ("gptj", "float32", ""),
    ],
)
def test_what_vllm_computes_or_reads_otherwise(kind: str, dtype: str, text: str, tmp_path: Path) -> None:
    config = SamplerConfig.from_mapping({"student": folder_of(kind, tmp_path), "engine": "vllm", "dtype": dtype})
    if not text:
        check_student_architecture(config)
        return
    with pytest.raises(ConfigError, match=text):
        check_student_architecture(config)
