"""LoRA: only adapters train; what is published is an ordinary model that computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM

from rgopd.common.errors import ConfigError
from rgopd.trainer.run.checkpoint import Checkpoints
from rgopd.trainer.student.adapter import adapter_weights, merged_policy, write_adapter
from rgopd.trainer.student.lora import LoraOptions, adapters_off
from rgopd.trainer.student.model import Student, full_weights
from rgopd.trainer.student.weights import write_weights
from tests.families.build import save_tiny
from tests.unit.trainer.lone import load, lone_rank, step

OPTIONS = LoraOptions(r=4, alpha=8.0)


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_rank(tmp_path_factory.mktemp("store")):
        yield


@pytest.fixture(scope="module")
def trained(student_folder: Path) -> Student:
    return step(student_folder, lora=OPTIONS, steps=2)[2]


def test_the_base_is_frozen_and_adapters_move(trained: Student, student_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32).state_dict()
    parameters = dict(trained.hf.named_parameters())
    for name, value in parameters.items():
        assert value.requires_grad == (".lora_" in name)
        if ".lora_" not in name:
            torch.testing.assert_close(value.full_tensor(), base[name.replace(".base_layer", "")])
        elif ".lora_B." in name:
            assert float(value.detach().full_tensor().abs().max()) > 0
    trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
    assert 0 < trainable < 0.2 * sum(p.numel() for p in parameters.values())


def test_published_weights_are_an_ordinary_model_that_computes_the_same(trained: Student, student_folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)
    missing, unexpected = plain.load_state_dict(full_weights(trained, "float32"), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    ids_BS = torch.randint(6, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    mask_BS, rows_N = torch.ones_like(ids_BS), torch.arange(18)

    def logits(student: Student) -> torch.Tensor:
        with torch.no_grad():
            return student(ids_BS, mask_BS, rows_N, lambda h_ND, w_VD: (h_ND.sum(), h_ND @ w_VD.T))[1]

    expected = logits(trained)
    torch.testing.assert_close(logits(Student(plain)), expected, atol=2e-5, rtol=1e-5)
    original = logits(Student(AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32)))
    assert float((original - expected).abs().max()) > 1e-2
    with adapters_off(trained):
        torch.testing.assert_close(logits(trained), original, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits(trained), expected)


def test_checkpoints_hold_the_adapters_alone_and_bring_them_back(student_folder: Path, tmp_path: Path) -> None:
    def fresh() -> tuple[Student, AdamW, LambdaLR]:
        student = load(student_folder, lora=OPTIONS)
        optimizer = AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-3, foreach=False)
        return student, optimizer, LambdaLR(optimizer, lambda _: 1.0)

    first = fresh()
    for _ in range(2):
        for number, parameter in enumerate(p for p in first[0].parameters() if p.requires_grad):
            parameter.grad = torch.full_like(parameter, 0.1 + number)
        first[1].step()
    Checkpoints(tmp_path, keep=1).save(2, *first, {"seed": 0})
    size = sum(f.stat().st_size for f in tmp_path.rglob("*.distcp"))
    assert size < sum(p.numel() * 4 for p in first[0].parameters())
    second = fresh()
    state = Checkpoints(tmp_path, keep=1).load_latest(*second)
    assert state is not None
    assert state["step"] == 2
    restored = full_weights(second[0], "float32")
    for name, value in full_weights(first[0], "float32").items():
        torch.testing.assert_close(restored[name], value, atol=0, rtol=0)
    moments = [[s["exp_avg"].full_tensor() for s in o.state.values()] for o in (first[1], second[1])]
    assert len(moments[0]) == len(moments[1]) > 0
    for a, b in zip(*moments, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_factor_is_pefts(student_folder: Path, rslora: bool) -> None:
    options = LoraOptions(r=4, alpha=6.0, rslora=rslora, target_modules=["q_proj", "down_proj"])
    student = Student.load(str(student_folder), lora=options)
    factors = {f for m in student.modules() if isinstance(m, LoraLayer) for f in m.scaling.values()}
    assert factors == {options.scaling}


def test_gradient_checkpointing_reaches_the_adapters(student_folder: Path) -> None:
    _, plain, _ = step(student_folder, lora=OPTIONS)
    _, checkpointed, _ = step(student_folder, lora=OPTIONS, gradient_checkpointing=True)
    assert checkpointed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-5)
    assert plain["grad_norm"] > 0


def test_an_unknown_layer_is_refused(student_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.target_modules"):
        Student.load(str(student_folder), lora=LoraOptions(target_modules=["no_such_layer"]))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_version_of_adapters_alone_is_the_merged_one_to_the_bit(
    trained: Student, student_folder: Path, tmp_path: Path, dtype: str
) -> None:
    """For who merges it when a best student is kept, and for the transformers sampler; peft reads it too."""
    from peft import PeftModel

    from rgopd.sampler.transformers import TransformersSampler

    whole, alone = tmp_path / "whole", tmp_path / "alone"
    weights = full_weights(trained, dtype)
    write_weights(whole, weights, trained.hf.config)
    write_adapter(alone, adapter_weights(trained), OPTIONS, str(student_folder))
    merged, _ = merged_policy(alone, str(student_folder), OPTIONS, dtype)
    assert merged.keys() == weights.keys()
    assert all(torch.equal(merged[name], value) for name, value in weights.items())
    states = []
    for folder in (whole, alone):
        sampler = TransformersSampler(str(student_folder), dtype=dtype, device="cpu")
        for version in (folder, folder):  # the second time it is merged into the base, not into the first
            sampler.load_weights(version)
        states.append(sampler.model.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (whole, alone)]
    assert sizes[1] < sizes[0]
    own = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32), alone)
    ids = torch.randint(6, 100, (1, 9), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    if dtype == "float32":
        with torch.no_grad():
            torch.testing.assert_close(own(ids).logits, plain(ids).logits, atol=2e-5, rtol=1e-5)


def test_adapters_of_another_student_are_refused(trained: Student, tmp_path: Path) -> None:
    from rgopd.sampler.transformers import TransformersSampler

    other = save_tiny(tmp_path / "other", "gpt2")
    write_adapter(tmp_path / "alone", adapter_weights(trained), OPTIONS, "elsewhere")
    with pytest.raises(ConfigError, match="the adapters are of another model"):
        TransformersSampler(str(other), device="cpu").load_weights(tmp_path / "alone")
