"""Weights and adapters that do not fit a model's config.json are told before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from rgopd.cli.models import refused_model
from rgopd.cli.shapes import check_adapters, check_shapes
from rgopd.common.errors import ConfigError
from tests.families.build import save_tiny
from tests.unit.cli.conftest import Fails, changed

Change = Callable[[Path], None]


def _config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _drop(name: str) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "width": (_config(hidden_size=72), "in its safetensors, and its config.json asks for"),
    "width of the MLP": (_config(intermediate_size=40), "mlp."),
    "vocabulary": (_config(vocab_size=4096), "config.json asks for 4096×"),
    "heads": (_config(num_key_value_heads=1, num_attention_heads=1, head_dim=512), "self_attn."),
    "a layer too many": (_config(num_hidden_layers=9, layer_types=None, max_window_layers=9), "lacks weights of its"),
    "a tensor less": (_drop("model.norm.weight"), "lacks weights of its own: model.norm.weight"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_are_not_those_of_the_config(tmp_path: Path, student_folder: Path, case: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(student_folder, folder)
    check_shapes("student", str(folder))
    change, told = WRONG[case]
    change(folder)
    for setting in ("student", "teacher.model"):
        with pytest.raises(ConfigError) as error:
            check_shapes(setting, str(folder))
        assert str(error.value).startswith(f"{setting}: ")
        assert told in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", ["student", "teacher"])
def test_up_and_doctor_say_so_before_anything_starts(
    tmp_path: Path, config: dict[str, Any], student_folder: Path, fails: Fails, section: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(student_folder, folder)
    _config(intermediate_size=40)(folder)
    named = {"teacher": {"teacher": {"model": str(folder)}}, "student": {
        "sampler": {"student": str(folder)}, "train": {"student": str(folder)}}}[section]  # fmt: skip
    made = changed(config, **named)
    assert "mlp." in fails("up", made)
    assert "its config.json asks for" in refused_model(made)


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [("gpt2", {}), ("qwen3_moe", {}), ("gemma3_text", {}), ("llama", {"tie_word_embeddings": True})],
)
def test_families_that_store_otherwise_than_they_hold(tmp_path: Path, model_type: str, sizes: dict[str, Any]) -> None:
    check_shapes("student", str(save_tiny(tmp_path / "m", model_type, **sizes)))


def test_experts_stored_by_the_names_they_are_held_under(tmp_path: Path) -> None:
    """As frameworks save a state_dict: transformers loads them as they are."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    folder = save_tiny(tmp_path / "m", "qwen3_moe")
    model = AutoModelForCausalLM.from_pretrained(folder)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"}
    )
    check_shapes("student", str(folder))


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["q_prj"], "no linear layer 'q_prj'; did you mean 'q_proj'?"),
        (["q_proj", "v_porj"], "no linear layer 'v_porj'; did you mean 'v_proj'?"),
        (["c_attn"], "it has down_proj, gate_proj"),
        (["embed_tokens"], "no linear layer 'embed_tokens'"),
        ([], "is empty"),
    ],
)
def test_adapters_on_layers_that_are_none(
    config: dict[str, Any], student_folder: Path, fails: Fails, targets: list[str], told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_adapters(str(student_folder), targets)
    assert told in str(error.value)
    assert told in fails("up", changed(config, train={"lora": {"target_modules": targets}}))


def test_adapters_on_layers_that_are_there(student_folder: Path) -> None:
    for targets in (["q_proj", "v_proj"], ["mlp.up_proj"], "all-linear"):
        check_adapters(str(student_folder), targets)
