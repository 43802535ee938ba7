"""What `rgopd eval` refuses before anything is loaded, and whether several requests may be asked at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rgopd.common.errors import ConfigError
from rgopd.evaluate.checks import ask_alone, batches_exactly, check_evaluated
from rgopd.evaluate.models import ModelSpec
from tests.families.build import TOKENIZER, save_tiny, tiny_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TOKENIZER, tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as told:
        check_evaluated(ModelSpec(str(folder), **options))
    assert "\n" not in str(told.value)
    return str(told.value)


def with_config(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_whole_folder_is_taken(folder: Path) -> None:
    check_evaluated(ModelSpec(str(folder)))
    check_evaluated(ModelSpec(str(folder), "vllm"))


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes", "compressed-tensors"])
def test_a_quantised_one_is_for_vllm(folder: Path, method: str) -> None:
    with_config(folder, quantization_config={"quant_method": method})
    assert f"is quantised ({method}); give the unquantised weights, or ask through --backend vllm" in refusal(folder)
    check_evaluated(ModelSpec(str(folder), "vllm"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "bert"}, "is an encoder, whose tokens see those after them"),
        ({"model_type": "made_up", "auto_map": {"AutoModelForCausalLM": "x.Y"}}, "needs its folder's own Python code"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "whose head makes no tokens"),
        ({"model_type": "modernbert-decoder"}, "a head of several layers"),
    ],
)
def test_what_would_not_answer_as_itself(folder: Path, values: dict[str, Any], words: str) -> None:
    assert words in refusal(with_config(folder, **values))


def test_vllm_is_not_asked_for_what_it_computes_otherwise(folder: Path) -> None:
    with_config(folder, model_type="jetmoe")
    assert "0.02 nats off the model's own, as measured; use --backend hf" in refusal(folder, backend="vllm")


def test_a_weight_that_is_missing_is_not_made_up(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    assert "lacks weights of its own: model.norm.weight" in refusal(folder)


def test_no_tokenizer_and_weights_cut_off(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "is cut off" in refusal(folder)
    file.write_bytes(whole)
    for name in folder.glob("*token*"):
        name.unlink()
    assert "tokenizer" in refusal(folder)
    check_evaluated(ModelSpec(str(folder), tokenizer=str(TOKENIZER)))


def test_no_folders_code_is_run(folder: Path) -> None:
    assert "never runs the Python code" in refusal(folder, arguments={"trust_remote_code": True})


def test_a_server_has_its_model_elsewhere() -> None:
    check_evaluated(ModelSpec("any-name", "server", base_url="http://localhost:1"))


@pytest.mark.parametrize(("family", "size"), [("qwen2", 16), ("mamba", 16), ("rwkv", 1)])
def test_several_at_once_only_where_padding_changes_nothing(tmp_path: Path, family: str, size: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path, family)).eval()
    lm, said = SimpleNamespace(model=model, batch_size_per_gpu=16), list[str]()
    ask_alone(lm, said.append)
    assert (lm.batch_size_per_gpu, len(said)) == (size, size == 1)


def test_transformers_own_decoding_is_what_counts() -> None:
    """Its cache is of its own kind: no student for our sampler, and right in lm-eval's hands."""
    config = tiny_config("recurrent_gemma", num_hidden_layers=3, lru_width=32, attention_window_size=64)
    assert batches_exactly(AutoModelForCausalLM.from_config(config).eval())


def test_a_model_that_a_cache_changes_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("qwen2")).eval()

    def colder(module: Any, args: Any, given: dict[str, Any], out: Any) -> None:
        if given.get("use_cache"):
            out.logits.mul_(3).add_(torch.arange(out.logits.shape[-1]))

    model.register_forward_hook(colder, with_kwargs=True)
    with pytest.raises(ConfigError, match=r"MODEL: Qwen2ForCausalLM .* choose another model"):
        batches_exactly(model)
