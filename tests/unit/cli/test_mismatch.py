"""Sampler against trainer, before the run: the real engines on a few rollouts; and the weight that corrects for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rgopd.cli.checks import Failed
from rgopd.cli.doctor import check_mismatch
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.objectives import TokenBatch, get_objective
from rgopd.trainer.objectives.step import head_loss


def sections(folder: Path, model: Path, **sampler: Any) -> dict[str, Any]:
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"{n}+{n}=", "kind": "math", "reference": "2"}) + "\n" for n in range(9))
    )
    return {
        "teacher": {"model": str(model)},
        "sampler": {"student": str(model), "device": "cpu", "engine": "transformers", **sampler},
        "train": {
            "student": str(model),
            "device": "cpu",
            "dataset": {"path": str(rows)},
            "sampling": {"max_new_tokens": 12},
        },
    }


def test_equal_models_are_rounding_apart(tmp_path: Path, student_folder: Path) -> None:
    found = check_mismatch(sections(tmp_path, student_folder))
    assert "e-0" in found
    assert "mean ratio 1.0000, effective fraction 1.0000" in found


def test_another_policy_is_found_before_the_first_step(tmp_path: Path, student_folder: Path) -> None:
    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(student_folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.3)
    model.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((student_folder / name).read_bytes())
    with pytest.raises(Failed, match=r"nats a token apart .*over the 0.05 .*importance_correction=always"):
        check_mismatch(sections(tmp_path, student_folder, student=str(other)))


def config(**settings: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"student": "s", "dataset": {"path": "d"}, **settings})


def test_the_correction_is_off_on_policy_unless_asked_for() -> None:
    assert config().build_objective().importance_clip is None
    assert config(max_staleness=1).build_objective().importance_clip == 2.0
    assert config(importance_correction="always").build_objective().importance_clip == 2.0
    assert config(importance_correction="always", importance_clip=None).build_objective().importance_clip is None


@pytest.mark.parametrize("single_pass", [True, False])
def test_the_weight_on_policy_is_the_truncated_ratio(single_pass: bool) -> None:
    """Loss and gradient by autograd over plain formulas, float64; the one-pass loss of max_staleness 0 as well."""
    rng = torch.Generator().manual_seed(0)
    n, vocab, dim, k = 8, 11, 6, 3
    hidden = torch.randn(n, dim, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocab, dim, generator=rng, dtype=torch.float64)
    logprobs = (hidden @ weight.T).log_softmax(-1)
    sampled = torch.randint(vocab, (n,), generator=rng)
    own = logprobs.gather(1, sampled[:, None])[:, 0]
    support = torch.stack([torch.randperm(vocab, generator=rng)[:k] for _ in range(n)])
    teacher = torch.randn(n, vocab, generator=rng, dtype=torch.float64).log_softmax(-1)
    q = teacher.gather(1, support)
    batch = TokenBatch(
        sampled_ids_N=sampled,
        behaviour_logprobs_N=own.detach() + 0.9 * torch.randn(n, generator=rng, dtype=torch.float64),
        support_ids_NK=support,
        rollout_N=torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]),
        advantage_R=torch.tensor([1.0, -1.0], dtype=torch.float64),
        reward_R=torch.tensor([1.0, 0.0], dtype=torch.float64),
        teacher_sampled_N=teacher.gather(1, sampled[:, None])[:, 0],
        teacher_support_NK=q,
        teacher_tail_N=(1 - q.exp().sum(-1)).log(),
    )
    objective = get_objective("rg_opd", importance_clip=0.9)
    got = head_loss(hidden, weight, batch, objective, gate_preset("off"), single_pass=single_pass)
    p = logprobs.gather(1, support)
    tail = (1 - p.exp().sum(-1)).log()
    kl = (p.exp() * (p - q)).sum(-1) + tail.exp() * (tail - batch.teacher_tail_N)
    ratio = (own - batch.behaviour_logprobs_N).exp().detach().clamp(max=0.9)
    assert (ratio == 0.9).any()
    assert float(got.sums.loss.detach()) == pytest.approx(float((ratio * kl).sum().detach()), rel=1e-12)
    (want,) = torch.autograd.grad((ratio * kl).sum(), hidden, retain_graph=True)
    (found,) = torch.autograd.grad(got.sums.loss, hidden)
    assert torch.allclose(found, want, rtol=1e-9, atol=1e-12)
    plain = dataclasses.replace(batch, behaviour_logprobs_N=own.detach())
    same = head_loss(hidden, weight, plain, objective, gate_preset("off"), single_pass=single_pass)
    expected = 0.9 * float(kl.sum().detach())
    assert float(same.sums.loss.detach()) == pytest.approx(expected, rel=1e-12), "a ratio of 1, truncated"
