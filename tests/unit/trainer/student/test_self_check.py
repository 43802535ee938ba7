"""A student whose numbers are not the model's own is refused by name; one that cannot be packed is padded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rgopd.common.errors import ConfigError
from rgopd.common.head import AfterHead
from rgopd.trainer.student.anatomy import decoder_of, layers_of
from rgopd.trainer.student.model import Student
from rgopd.trainer.student.self_check import check_student, load_checked
from tests.families.build import save_tiny


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("granite"), "granite", logits_scaling=4.0)


def test_a_model_agrees_with_itself(granite: Path) -> None:
    student, found = load_checked(lambda p: Student.load(str(granite), packing=p), packing=True, temperature=0.7)
    assert student.packing
    assert found.drift < 1e-5
    assert abs(found.loss) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_that_is_not_known_is_refused_by_name(granite: Path, dtype: str) -> None:
    student = Student.load(str(granite))
    student.after_head = AfterHead()  # as if nobody had told of logits_scaling
    with pytest.raises(ConfigError, match=r"GraniteForCausalLM \(model_type 'granite'\) are not the model's own"):
        check_student(student, dtype=dtype)


def test_rows_that_see_each_other_are_not_packed(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "bloom")
    student, _ = load_checked(lambda p: Student.load(str(folder), packing=p), packing=True)
    assert not student.packing
    assert "packed row" in student.unpacked or "exchanged" in student.unpacked


def test_a_model_that_sees_the_future_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "roberta")
    with pytest.raises(ConfigError, match="see those that come after them"):
        check_student(Student.load(str(folder)))


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "opt", "bloom", "falcon", "mpt", "llama"])
def test_decoder_layers_are_found_whatever_they_are_called(tmp_path: Path, model_type: str) -> None:
    student = Student.load(str(save_tiny(tmp_path, model_type)))
    layers = layers_of(decoder_of(student.hf))
    assert len(layers) == 2
    assert len({type(layer) for layer in layers}) == 1


def test_dropout_is_off_also_where_activations_are_made_again(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5})
    )
    student = Student.load(str(folder), gradient_checkpointing=True)
    ids = torch.arange(4, 16)[None]
    embeddings = student.hf.get_input_embeddings().weight
    outputs = [decoder_of(student.hf)(input_ids=ids).last_hidden_state for _ in range(2)]
    torch.testing.assert_close(outputs[0], outputs[1])
    outputs[0].sum().backward()
    assert embeddings.grad is not None
