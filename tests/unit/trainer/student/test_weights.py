"""What is published: safetensors' own bytes, hashed while they are written, gathered a tensor at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rgopd.common import policies
from rgopd.common.policies import digest
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import full_weights, published
from rgopd.trainer.student.weights import write_safetensors, write_weights
from tests.unit.trainer.lone import load, lone_rank

STATES = {
    "several": {"b.weight": torch.randn(3, 5), "a": torch.randn(7), "c.ä": torch.zeros(0, 4), "a.b": torch.tensor(2.0)},
    "narrow": {"w": torch.randn(2, 3).bfloat16(), "v": torch.randn(5).bfloat16()},
    "half": {"w": torch.randn(2, 3).half().t()},
    "none": {},
}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {k: (v.dtype, tuple(v.shape)) for k, v in state.items()}


@pytest.mark.parametrize("name", STATES)
def test_the_bytes_are_safetensors_own(name: str, tmp_path: Path) -> None:
    state = STATES[name]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "theirs", metadata={"format": "pt"})
    sha256 = write_safetensors(tmp_path / "ours", shapes_of(state), sorted(state.items()))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sha256 == hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()
    assert load_file(tmp_path / "ours").keys() == state.keys()


@pytest.mark.parametrize("wrong", ["order", "shape", "fewer", "dtype"])
def test_other_tensors_than_announced_are_refused(wrong: str, tmp_path: Path) -> None:
    state = STATES["narrow"]
    tensors = sorted(state.items())
    changed = {
        "order": tensors[::-1],
        "shape": [(name, value[:1]) for name, value in tensors],
        "fewer": tensors[:1],
        "dtype": [(name, value.float()) for name, value in tensors],
    }[wrong]
    with pytest.raises(ValueError, match="weights"):
        write_safetensors(tmp_path / "w", shapes_of(state), changed)


def test_an_error_of_the_disk_is_not_lost(tmp_path: Path) -> None:
    state = {"w": torch.zeros(1 << 20)}
    with pytest.raises(OSError, match="No space"):
        write_safetensors(Path("/dev/full"), shapes_of(state), state.items())


class Config:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text("{}")


def test_the_digest_comes_with_the_writing_and_nothing_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr("rgopd.trainer.student.weights.digest", lambda folder: read.append(folder) or digest(folder))
    folder, state = tmp_path / "v1", STATES["several"]
    found = write_weights(folder, state, Config())
    assert not read
    assert found == policies.digest(folder)
    before = (folder / "model.safetensors").stat().st_ino
    assert write_weights(folder, state, Config()) == found
    assert (folder / "model.safetensors").stat().st_ino == before  # a sampler may be reading it
    assert len(read) == 1
    changed = {**state, "a": state["a"] + 1}
    assert write_weights(folder, changed, Config()) != found
    assert torch.equal(load_file(folder / "model.safetensors")["a"], changed["a"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraOptions(r=2)])
def test_what_is_published_is_the_model(dtype: str, lora: Any, student_folder: Path, tmp_path: Path) -> None:
    with lone_rank(tmp_path):
        student = load(student_folder, lora=lora)
        found, announced = full_weights(student, dtype), published(student, dtype)
        assert [name for name, _ in announced.tensors] == sorted(announced.shapes) == list(found)
    plain = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)
    tied = {"lm_head.weight"} if plain.config.tie_word_embeddings else set()
    want = {k: v.to(getattr(torch, dtype)) for k, v in plain.state_dict().items() if k not in tied}
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)
