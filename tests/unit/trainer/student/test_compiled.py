"""torch.compile of decoder layers changes nothing, under FSDP2, checkpointed, with adapters, packed and padded.

The backend is aot_eager, which traces and differentiates as inductor does and needs no compiler on the machine;
tests/gpu runs inductor. Where one graph is asked for, the variable-length operators have a kernel for the CPU, as in
test_varlen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rgopd.common.errors import ConfigError
from rgopd.trainer.batch import varlen
from rgopd.trainer.student import compiled
from rgopd.trainer.student.lora import LoraOptions
from rgopd.trainer.student.model import Student
from rgopd.trainer.student.self_check import check_student
from tests.unit.trainer.batch import test_varlen
from tests.unit.trainer.lone import load, lone_rank, step
from tests.unit.trainer.run.test_train_step import worst

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's own, at every look at a tensor's .grad


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Packed rows as on a GPU: one call a layer, recorded."""
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("_flash_attention_forward", test_varlen.forward)
    library.impl("_flash_attention_backward", test_varlen.backward)
    monkeypatch.setattr(varlen, "_NARROW", (torch.float32, torch.bfloat16))
    varlen._trusted.cache_clear()
    varlen._asked(torch.device("cpu"), torch.float32)  # tried before calls are counted
    test_varlen.CALLS.clear()
    yield test_varlen.CALLS
    varlen._trusted.cache_clear()
    library._destroy()


def graphs() -> int:
    found: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"packing": False},
        {"lora": LoraOptions(r=4), "gradient_checkpointing": "selective"},
    ],
    ids=["checkpointing", "padded", "LoRA, selective"],
)
def test_compiled_layers_give_the_same_gradient(
    student_folder: Path, tmp_path: Path, at_once: list[Any], options: dict[str, Any]
) -> None:
    with lone_rank(tmp_path):
        plain, plain_metrics, _ = step(student_folder, **options)
        eager_calls = len(at_once)
        at_once.clear()
        got, metrics, student = step(student_folder, compile_backend="aot_eager", **options)
    # Layers share one graph, and nothing breaks it; before the first one's adapters nothing has a gradient.
    assert graphs() == (2 if "lora" in options else 1)
    assert not torch._dynamo.utils.counters["graph_break"]
    layers = student.hf.config.num_hidden_layers
    forwards = 2 if options.get("gradient_checkpointing") is True else 1
    assert len(at_once) == (layers * forwards if options.get("packing", True) else 0), "made again in backward"
    assert eager_calls >= len(at_once)
    assert worst(plain, got) < 1e-5
    for name in ("loss", "kept_fraction", "grad_norm"):
        assert metrics[name] == pytest.approx(plain_metrics[name], rel=1e-5)


def test_where_attention_is_a_walk_the_layers_are_compiled_around_it(student_folder: Path, tmp_path: Path) -> None:
    with lone_rank(tmp_path):
        plain, _, _ = step(student_folder, gradient_checkpointing=True)
        got, _, _ = step(student_folder, compile_backend="aot_eager", gradient_checkpointing=True)
        assert 1 < graphs() < 12
        assert worst(plain, got) < 1e-5
        made = graphs()
        step(student_folder, compile_backend="aot_eager", gradient_checkpointing=True, rollouts=9)
        assert graphs() == made, "other lengths are no other graph"


def test_compiled_layers_are_checked_before_the_first_step(student_folder: Path, tmp_path: Path) -> None:
    with lone_rank(tmp_path):
        student = load(student_folder, compile_backend="aot_eager")
        assert check_student(student).within("float32")
        assert graphs() > 0
        assert all(p.grad is None for p in student.parameters())


def test_what_cannot_be_compiled_is_told(student_folder: Path, tmp_path: Path) -> None:
    def backend(_module: Any, _inputs: Any) -> Any:
        raise RuntimeError("no kernel for this")

    student = Student.load(str(student_folder), compile_backend=backend)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cannot compile this student's layers .*set compile=off"):
        check_student(student)


def test_what_the_settings_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = compiled.backend_of
    assert asked("off", "inductor", "cuda") == asked("auto", "", "cuda") == asked("auto", "", "cpu") == ""
    assert asked("layers", "", "cpu") == asked("auto", "inductor", "cpu") == "inductor"
    assert asked("layers", "aot_eager", "cuda") == "aot_eager"
    monkeypatch.setattr(compiled, "ON_CUDA", True)
    assert (asked("auto", "", "cuda"), asked("auto", "", "cpu")) == ("inductor", "")
    with pytest.raises(ConfigError, match="did you mean 'inductor'"):
        compiled.check_backend("inductr", "cpu")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler.*compile=off"):
        compiled.check_backend("inductor", "cpu")
