"""torch.compile of the decoder's parts changes nothing: packed or padded, checkpointed, under FSDP2, one pass or two.

The backend is aot_eager, which traces and differentiates as inductor does and needs no compiler on the machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.losses.head import head_stats
from tests.unit.trainer.lone import lone_rank, step
from tests.unit.trainer.run.test_train_step import worst

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's own, at every look at a tensor's .grad


@pytest.mark.parametrize(("packing", "checkpointing"), [(True, True), (True, False), (False, False)])
def test_compiled_parts_give_the_same_gradient(
    student_folder: Path, tmp_path: Path, packing: bool, checkpointing: bool
) -> None:
    options = {"packing": packing, "gradient_checkpointing": checkpointing, "gate": GateConfig(), "rollouts": 9}
    with lone_rank(tmp_path):
        plain, plain_metrics, _ = step(student_folder, **options)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled, metrics, _ = step(student_folder, compile_backend="aot_eager", **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert worst(plain, compiled) < 1e-5
    for name in ("loss", "kept_fraction", "grad_norm"):
        assert metrics[name] == pytest.approx(plain_metrics[name], rel=1e-5)


def test_the_head_inside_a_compiled_function_is_the_head() -> None:
    rng = torch.Generator().manual_seed(0)
    sampled, support = torch.tensor([1, 2, 3]), torch.tensor([[1, 4], [0, -1], [5, 6]])

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        stats = head_stats(hidden * 2, weight, sampled, support)
        return stats.sampled_logprobs_N.sum() + stats.tail_logprob_N.sum() * 3

    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager")):
        hidden = torch.randn(3, 4, generator=rng.manual_seed(1)).requires_grad_()
        weight = torch.randn(9, 4, generator=rng.manual_seed(2)).requires_grad_()
        value = function(hidden, weight)
        value.backward()
        found.append((value.detach(), hidden.grad, weight.grad))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)
