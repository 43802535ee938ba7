from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_architecture, check_model


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-14B-Instruct", "gpt2"])
def test_hub_ids_are_left_to_the_hub(name: str) -> None:
    check_model(name, "model")


@pytest.mark.parametrize("name", ["/nope/model", "./nope", "~/nope", "runs/demo/nope"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=f"student: {name} does not exist"):
        check_model(name, "student")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        check_model(str(tmp_path), "model")
    (tmp_path / "config.json").write_text("{}")
    check_model(str(tmp_path), "model")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("adapter_config.json", "but adapters; merge them into their base model"),
        ("model-Q4_K_M.gguf", "but GGUF files; give the folder of safetensors"),
        ("params.json", "in their maker's own layout"),
        ("model_index.json", "but a pipeline of several models"),
    ],
)
def test_folders_of_other_kinds_say_what_they_are(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(ConfigError, match="student") as told:
        check_model(str(tmp_path), "student")
    assert text in str(told.value)
    with pytest.raises(ConfigError, match="give the folder, not a file of it"):
        check_model(str(tmp_path / file), "student")


def test_adapters_beside_a_config_are_not_a_model(tmp_path: Path) -> None:
    """transformers would load their base, with them inside."""
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a folder of adapters; merge them"):
        check_architecture(str(tmp_path), "model", {"model_type": "qwen2"}, CAUSAL)


CAUSAL = frozenset(["qwen2", "bart", "bert", "rwkv", "minimax"])


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "bart"}, "is an encoder-decoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "bert"}, "is an encoder, whose tokens see"),
        ({"model_type": "qwen2", "quantization_config": {"quant_method": "gptq"}}, "is quantised (gptq)"),
        ({"model_type": "x", "auto_map": {"AutoModelForCausalLM": "x.X"}}, "no trust_remote_code"),
        ({"model_type": "x"}, "is not among the causal language models"),
        ({"model_type": "rwkv"}, "rescales its weights"),
        ({"model_type": "qwen2_vl", "vision_config": {}}, "more than text (vision_config in its config.json)"),
        ({"model_type": "thinker", "text_config": {}, "audio_config": {}}, "more than text (audio_config in"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"]}, "whose head makes no tokens"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForProcessRewardModel"]}, "whose head makes no tokens"),
        ({"model_type": "qwen2", "text_config": {"model_type": "mine"}}, "text part (mine) that is no model"),
        ({"model_type": "qwen2", "compression_config": {"format": "fp8"}}, "is quantised"),
        ({"model_type": "qwen2", "quantization": {"group_size": 64, "bits": 4}}, "is quantised"),
        ({"model_type": "qwen2", "text_config": {"quantization_config": {"quant_method": "awq"}}}, "(awq)"),
        ({"model_type": "minimax"}, "cache of its own kind; choose another student"),
    ],
)
def test_architectures_that_cannot_be_used_are_refused_in_one_line(config: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_architecture("folder", "student", config, CAUSAL, sampled=True)
    assert text in str(told.value)
    assert str(told.value).startswith(f"student: folder (model_type {config['model_type']!r}) ")
    assert "\n" not in str(told.value)


def test_what_can_be_used_passes() -> None:
    # Its own code is not needed where transformers holds the architecture.
    check_architecture("m", "student", {"model_type": "qwen2", "auto_map": {"AutoConfig": "x.X"}}, CAUSAL)
    check_architecture("m", "model", {"model_type": "minimax"}, CAUSAL)
    check_architecture("m", "student", {"model_type": "bert", "is_decoder": True}, CAUSAL)
    quantised = {"model_type": "qwen2", "quantization_config": {"quant_method": "awq"}}
    check_architecture("m", "model", quantised, CAUSAL, may_be_quantised=True)
    with pytest.raises(ConfigError, match="or set engine=vllm"):
        check_architecture("m", "model", quantised, CAUSAL)
