"""One pass against two, and both inside FSDP2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rgopd.common.leave import leave
from rgopd.trainer.gating.gate import GateConfig, gate_preset
from rgopd.trainer.losses.fused import fused_head_loss, fused_topk_kl
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.step import head_loss


def world(seed: int, *, lengths: tuple[int, ...] = (4, 1, 6), vocab: int = 17, k: int = 5, dim: int = 6):
    rng = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    hidden, weight = draw(n, dim).requires_grad_(), draw(vocab, dim).requires_grad_()
    logits = (hidden @ weight.t()).detach()
    student, teacher = logits.log_softmax(-1), (logits + draw(n, vocab)).log_softmax(-1)
    sampled, support = torch.randint(vocab, (n,), generator=rng), logits.topk(k).indices
    teacher_support = teacher.gather(1, support)
    batch = TokenBatch(
        sampled_ids_N=sampled,
        behaviour_logprobs_N=student.gather(1, sampled[:, None])[:, 0],
        support_ids_NK=support,
        rollout_N=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        advantage_R=torch.tensor([0.7, -0.4, -1.0][: len(lengths)], dtype=torch.float64),
        reward_R=torch.tensor([1.0, 0.0, 0.0][: len(lengths)], dtype=torch.float64),
        teacher_sampled_N=teacher.gather(1, sampled[:, None])[:, 0],
        teacher_support_NK=teacher_support,
        teacher_tail_N=torch.log1p(-teacher_support.exp().sum(-1)),
    )
    return hidden, weight, batch


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    chunk=st.integers(1, 120),
    temperature=st.sampled_from([1.0, 0.6]),
    name=st.sampled_from(["reverse_kl", "forward_kl", "jsd", "sdpo"]),
    gate=st.sampled_from([gate_preset("paper"), gate_preset("released"), gate_preset("off")]),
    drift=st.sampled_from([0.0, 0.5]),
)
def test_one_pass_equals_two(seed, chunk, temperature, name, gate, drift) -> None:
    """Also where the behaviour policy has drifted so far that the predicted gate is wrong and must be repaired."""
    hidden, weight, batch = world(seed)
    noise = torch.randn(len(batch.rollout_N), generator=torch.Generator().manual_seed(seed)).double()
    batch = replace(batch, behaviour_logprobs_N=batch.behaviour_logprobs_N + drift * noise)
    objective = get_objective(name)
    one, two = (
        head_loss(hidden, weight, batch, objective, gate, temperature=temperature, chunk_size=chunk, single_pass=single)
        for single in (True, False)
    )
    assert one.decision.keep_N.tolist() == two.decision.keep_N.tolist()
    torch.testing.assert_close(one.sums.loss, two.sums.loss)
    assert one.sums.count == two.sums.count
    torch.testing.assert_close(one.metrics[name], two.metrics[name])
    torch.testing.assert_close(one.stats.tail_logprob_N, two.stats.tail_logprob_N)
    torch.testing.assert_close(
        torch.autograd.grad(one.sums.loss, (hidden, weight)), torch.autograd.grad(two.sums.loss, (hidden, weight))
    )


def test_a_wrong_prediction_is_repaired_and_counted() -> None:
    hidden, weight, batch = world(0)
    wrong = replace(batch, behaviour_logprobs_N=2 * batch.teacher_sampled_N - batch.behaviour_logprobs_N)
    got = head_loss(hidden, weight, wrong, get_objective("rg_opd"), gate_preset("released"), single_pass=True)
    assert got.metrics["gate_mispredicted_tokens"] == len(batch.rollout_N)


def test_fused_topk_kl_is_the_gated_numerator() -> None:
    hidden, weight, batch = world(1)
    keep = torch.arange(len(batch.rollout_N)) % 2 == 0
    fused = fused_topk_kl(
        hidden, weight, batch.sampled_ids_N, batch.support_ids_NK, batch.teacher_support_NK, batch.teacher_tail_N,
        keep.double(), chunk_size=40,
    )  # fmt: skip
    stats = head_stats(hidden, weight, batch.sampled_ids_N, batch.support_ids_NK)
    want = get_objective("reverse_kl").token_losses(stats, batch).loss_N
    torch.testing.assert_close(fused.loss_N, want.detach())
    torch.testing.assert_close(fused.loss, want[keep].sum())
    (3.0 * fused.loss).backward()
    torch.testing.assert_close(
        (hidden.grad, weight.grad), torch.autograd.grad(3.0 * want[keep].sum(), (hidden, weight))
    )
    assert (hidden.grad[~keep] == 0).all()


@pytest.mark.parametrize("need_entropy", [False, True])
def test_gradient_by_finite_differences(need_entropy: bool) -> None:
    hidden, weight, batch = world(2)
    weights = torch.linspace(-1, 2, len(batch.rollout_N), dtype=torch.float64)

    def token_loss(stats: HeadStats, rows: Tensor) -> Tensor:
        total = stats.sampled_logprobs_N + stats.tail_logprob_N.exp() * (1 + rows) + stats.support_logprobs_NK.sum(-1)
        return total if stats.entropy_N is None else total + stats.entropy_N**2

    def loss() -> Tensor:
        return fused_head_loss(
            hidden,
            weight,
            batch.sampled_ids_N,
            batch.support_ids_NK,
            token_loss,
            weights,
            temperature=0.7,
            vocab_size=16,
            chunk_size=50,
            need_entropy=need_entropy,
        ).loss

    support = batch.support_ids_NK
    batch = replace(batch, support_ids_NK=support.clamp(max=15).masked_fill(support == 16, -1))
    batch = replace(batch, sampled_ids_N=batch.sampled_ids_N.clamp(max=15))
    grads = torch.autograd.grad(loss(), (hidden, weight))
    for parameter, grad in zip((hidden, weight), grads, strict=True):
        numeric = torch.zeros_like(grad)
        flat = parameter.data.view(-1)
        for i in range(flat.numel()):
            at = flat[i].item()
            ends = []
            for moved in (at + 1e-6, at - 1e-6):
                flat[i] = moved
                with torch.no_grad():
                    ends.append(loss().item())
            flat[i] = at
            numeric.view(-1)[i] = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(grad, numeric, atol=1e-6, rtol=1e-5)


def test_backward_runs_once_and_says_so() -> None:
    hidden, weight, batch = world(3)
    loss = head_loss(hidden, weight, batch, get_objective("jsd"), gate_preset("off"), single_pass=True).sums.loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward ran before"):
        loss.backward()


def test_without_gradients_none_are_made() -> None:
    hidden, weight, batch = world(4)
    with torch.no_grad():
        got = head_loss(hidden, weight, batch, get_objective("jsd"), gate_preset("off"), single_pass=True)
    assert not got.sums.loss.requires_grad


@pytest.mark.parametrize("single_pass", [False, True])
def test_an_empty_kept_set_is_zero_loss_and_zero_gradient(single_pass: bool) -> None:
    hidden, weight, batch = world(5)
    agreed = replace(batch, advantage_R=torch.zeros_like(batch.advantage_R))
    got = head_loss(hidden, weight, agreed, get_objective("rg_opd"), gate_preset("released"), single_pass=single_pass)
    got.sums.loss.backward()
    assert (got.sums.loss.item(), got.sums.count.item()) == (0.0, 0.0)
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


def test_a_gate_without_a_teacher_is_refused() -> None:
    hidden, weight, batch = world(6)
    bare = replace(batch, teacher_sampled_N=None)
    with pytest.raises(ValueError, match="no teacher log-probs"):
        head_loss(hidden, weight, bare, get_objective("grpo"), gate_preset("paper"))
    assert head_loss(hidden, weight, bare, get_objective("grpo"), gate_preset("off")).sums.loss.requires_grad


class Tied(nn.Module):
    """An embedding, a body and a head on the embedding's own weight, as a student is; the loss is its forward."""

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(vocab, dim).double()
        self.body = nn.Sequential(nn.Linear(dim, dim), nn.Tanh()).double()

    def forward(self, batch: TokenBatch, gate: GateConfig, single_pass: bool) -> tuple[Tensor, Tensor]:
        hidden = self.body(self.embedding(batch.sampled_ids_N.roll(1)))
        got = head_loss(
            hidden, self.embedding.weight, batch, get_objective("rg_opd"), gate, chunk_size=60, single_pass=single_pass
        )
        return got.sums.loss, got.sums.count


def fsdp_rank(rank: int, port: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = []
    for single_pass in (False, True):
        model = Tied(17, 6)
        fully_shard(model.body)
        fully_shard(model)
        _, _, batch = world(10 + rank)
        loss, _ = model(batch, gate_preset("released"), single_pass)
        loss.backward()
        # FSDP2 averages over ranks; Eq. 3 wants the sum.
        results.append([2 * p.grad.full_tensor() for p in model.parameters()])
    if rank == 0:
        torch.save(results, Path(folder) / "grads.pt")
    dist.destroy_process_group()
    leave(0)


def test_two_fsdp2_ranks_equal_one_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = (
        "import runpy, sys; runpy.run_path(sys.argv[1])['fsdp_rank'](int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", call, __file__, str(rank), str(port), str(tmp_path)],
            cwd=Path(__file__).parents[4],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[4])},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=600) for rank in ranks] == [0, 0]
    model = Tied(17, 6)
    for rank in range(2):
        loss, _ = model(world(10 + rank)[2], gate_preset("released"), False)
        loss.backward()
    for grads in torch.load(tmp_path / "grads.pt", weights_only=True):
        torch.testing.assert_close(grads, [p.grad for p in model.parameters()], atol=1e-12, rtol=1e-9)
