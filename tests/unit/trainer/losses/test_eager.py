"""torch.compile around the public functions: the same numbers, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.losses.fused import fused_topk_kl
from rgopd.trainer.losses.head import head_stats
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.objectives.step import head_loss
from tests.unit.trainer.losses.test_fused import world

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about what it looks at while it traces


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


HIDDEN, WEIGHT, BATCH = world(3)


def stats(hidden: Tensor, weight: Tensor, walk: str) -> Tensor:
    found = head_stats(hidden.tanh(), weight, BATCH.sampled_ids_N, BATCH.support_ids_NK, walk=walk)
    return found.sampled_logprobs_N.sum() * 3


def fused(hidden: Tensor, weight: Tensor, walk: str) -> Tensor:
    teacher = BATCH.teacher_support_NK, BATCH.teacher_tail_N, torch.ones_like(BATCH.teacher_tail_N)
    named = BATCH.sampled_ids_N, BATCH.support_ids_NK
    return fused_topk_kl(hidden.tanh(), weight, *named, *teacher, walk=walk).loss * 3


def whole(hidden: Tensor, weight: Tensor, walk: str) -> Tensor:
    options = {"single_pass": True, "walk": walk}
    return head_loss(hidden.tanh(), weight, BATCH, get_objective("rg_opd"), gate_preset("off"), **options).sums.loss


@pytest.mark.parametrize(("function", "walk"), [(stats, "rows"), (whole, "tiles")])
def test_a_compiled_function_may_hold_it(function: Callable[..., Tensor], walk: str) -> None:
    want = torch.autograd.grad(function(HIDDEN, WEIGHT, walk), (HIDDEN, WEIGHT))
    got = torch.autograd.grad(torch.compile(function, backend="aot_eager")(HIDDEN, WEIGHT, walk), (HIDDEN, WEIGHT))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


def test_in_a_full_graph_it_is_refused_with_the_reason() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.compile(fused, backend="aot_eager", fullgraph=True)(HIDDEN, WEIGHT, "tiles")
    assert "compile the model's body" in str(caught.value)
