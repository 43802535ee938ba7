"""Models that cannot be used, as student and teacher: `doctor` and `up` say one line, and load nothing of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config

from rgopd.cli import doctor
from rgopd.cli.checked import check_sections
from rgopd.cli.preflight import preflight
from rgopd.common.errors import ConfigError, RgopdError
from rgopd.trainer.student.model import Student
from tests.families.build import save_tiny
from tests.families.families import FAMILIES
from tests.unit.cli.conftest import Fails, changed

BY_NAME = {family.name: family for family in FAMILIES}
MODELS = ("models", "disk", "student", "mismatch", "loss", "tokenizer", "vocabulary", "eos", "chat template")


def told(sections: dict[str, Any], only: tuple[str, ...] = ("config", *MODELS)) -> list[str]:
    """What fails, of the checks that concern models."""
    found = []
    for name, check in doctor.checks(sections):
        if not name.startswith(only):
            continue
        try:
            check()
        except RgopdError as error:
            found.append(f"{name}: {error}")
    return found


def config_of(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def t5(folder: Path) -> None:
    T5Config(vocab_size=102, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4).save_pretrained(folder)


def own_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["tokenization_my.MyTokenizer", None]}
    path.write_text(json.dumps({"tokenizer_class": "MyTokenizer", "auto_map": auto_map}))
    (folder / "tokenizer.json").unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def adapters_alone(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


REMOTE = {"auto_map": {"AutoConfig": "configuration_my.C", "AutoModelForCausalLM": "modeling_my.M"}}
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "encoder-decoder": (t5, "(model_type 't5') is an encoder-decoder"),
    "gptq": (lambda f: config_of(f, quantization_config={"quant_method": "gptq", "bits": 4}), "is quantised (gptq)"),
    "bitsandbytes": (lambda f: config_of(f, quantization_config={"load_in_4bit": True}), "is quantised"),
    "quantised, no mapping": (lambda f: config_of(f, quantization_config="fp8"), "is quantised (fp8)"),
    "own code": (lambda f: config_of(f, model_type="my", **REMOTE), "no trust_remote_code"),
    "own tokenizer": (own_tokenizer, "cannot be loaded"),
    "no tokenizer": (no_tokenizer, "holds no tokenizer"),
    "classifier": (lambda f: config_of(f, architectures=["Qwen2ForSequenceClassification"]), "head makes no tokens"),
    "adapters": (lambda f: (f / "adapter_config.json").write_text("{}"), "is a folder of adapters; merge them"),
    "adapters alone": (adapters_alone, "but adapters; merge them"),
    "vision": (lambda f: config_of(f, model_type="qwen2_vl", vision_config={}), "is a model of more than text"),
    "no type": (lambda f: config_of(f, model_type=""), "is not among the causal language models"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "its config.json is not that of a model"),
    "no mapping in it": (lambda f: config_of(f, text_config="x"), "its config.json is not that of a model"),
    "cut off": (lambda f: (f / "config.json").write_text("{"), "is not a valid JSON file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_student_that_cannot_be_used_is_one_line(
    name: str, config: dict[str, Any], fails: Fails, student_folder: Path, tmp_path: Path
) -> None:
    spoil, text = REFUSED[name]
    folder = Path(shutil.copytree(student_folder, tmp_path / "student"))
    spoil(folder)
    here = {"student": str(folder)}
    [line] = told(changed(config, train=here, sampler=here))
    assert text in line
    assert "\n" not in line
    assert text in fails("up", changed(config, train=here, sampler=here))
    if "tokenizer" not in name:  # what a run needs of memory does not depend on it
        assert text in fails("plan", changed(config, train=here, sampler=here))


@pytest.mark.parametrize("name", ["encoder-decoder", "gptq", "own code", "classifier", "adapters alone", "cut off"])
def test_a_teacher_that_cannot_be_used_is_one_line(
    name: str, config: dict[str, Any], fails: Fails, teacher_folder: Path, tmp_path: Path
) -> None:
    spoil, text = REFUSED[name]
    folder = Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))
    spoil(folder)
    sections = changed(config, teacher={"model": str(folder)})
    [line] = told(sections)
    assert text in line
    assert text in fails("up", sections)
    assert text in fails("plan", sections)


def test_broken_weights_are_one_line_of_every_check(student_folder: Path, tmp_path: Path) -> None:
    cut, other, less = (Path(shutil.copytree(student_folder, tmp_path / name)) for name in ("cut", "other", "less"))
    (cut / "model.safetensors").write_bytes(b"not weights")
    config_of(other, hidden_size=96, head_dim=16)
    weights = load_file(less / "model.safetensors")
    lost = next(name for name in weights if "mlp" in name)
    save_file({k: v for k, v in weights.items() if k != lost}, less / "model.safetensors", {"format": "pt"})
    for folder, text in ((cut, "cannot be loaded"), (other, "of other sizes than its config.json"), (less, lost)):
        with pytest.raises(ConfigError, match="student") as error:
            doctor.check_zero_loss(str(folder), 0)
        assert text in str(error.value)
        with pytest.raises(ConfigError, match="student") as error:
            Student.load(str(folder))
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_heads_with_a_bias_and_older_ones_are_taken(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", BY_NAME[name].model_type, **BY_NAME[name].config)
    here = {"student": str(folder)}
    sections = changed(config, train=here, sampler=here, teacher={"model": str(folder)})
    assert not told(sections)
    preflight(check_sections(sections))


@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM on a CPU is what is refused")
@pytest.mark.parametrize("name", ["lfm2_moe", "gemma3n_text"])
def test_what_vllm_reloads_wrongly_is_told_before_it_starts(
    name: str, config: dict[str, Any], fails: Fails, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "model", BY_NAME[name].model_type, **BY_NAME[name].config)
    here = {"student": str(folder)}
    sections = changed(config, train=here, sampler={**here, "engine": "vllm"}, teacher={"model": str(folder)})
    [line] = told(sections)
    assert "set sampler.engine=transformers" in line
    assert "set sampler.engine=transformers" in fails("up", sections)
    check_sections(changed(sections, train={"lora": {"r": 4, "publish": "adapter"}}))  # reloads nothing


def test_recurrent_gemma_is_refused_by_name(config: dict[str, Any], fails: Fails, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "recurrent_gemma", **BY_NAME["recurrent_gemma"].config)
    here = {"student": str(folder)}
    [line] = told(changed(config, train=here, sampler=here))
    assert "(model_type 'recurrent_gemma') is not decoded exactly" in line
    assert "recurrent_gemma" in fails("up", changed(config, train=here, sampler=here))


def widen(folder: Path, rows: int) -> None:
    """Its vocabulary with padding, in config.json and in the weights."""
    config_of(folder, vocab_size=rows)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors.keys() & {"model.embed_tokens.weight", "lm_head.weight"}:
        tensors[name] = torch.nn.functional.pad(tensors[name], (0, 0, 0, rows - len(tensors[name])))
    save_file(tensors, path, {"format": "pt"})


def test_every_teacher_is_checked(config: dict[str, Any], student_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(student_folder, tmp_path / "other"))
    widen(other, 200)
    closed = {"engine": "openai", "server_url": "http://127.0.0.1:9", "server_model": "m"}
    sections = changed(
        config,
        up={"teachers": {"wide": {"model": str(other)}, "served": closed}},
        train={"distillation": {"support": "none"}},
    )
    names = [name for name, _ in doctor.checks(sections)]
    assert {"tokenizer", "tokenizer of wide", "vocabulary of wide", "teacher server of served"} <= set(names)
    failed = told(sections, ("vocabulary", "teacher server"))
    assert [line.partition(":")[0] for line in failed] == ["vocabulary of wide", "teacher server of served"]
    config_of(other, quantization_config={"quant_method": "awq"})
    [line] = told(sections)
    assert "up.teachers.wide" in line
    assert "is quantised (awq)" in line


def test_a_self_teacher_of_another_model_is_told(config: dict[str, Any]) -> None:
    [line] = told(changed(config, teacher={"source": "ema"}), ("self-teacher",))
    assert "of another architecture" in line
