"""examples/trl_reward.py and trl_teacher.py: TRL's own trainer takes a step with them."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import torch

from tests.examples.conftest import EXAMPLES, STUDENT, TEACHER


def test_grpo_with_the_verifier_as_reward(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    example = runpy.run_path(str(EXAMPLES / "trl_reward.py"))
    asked = []

    def counted(**columns: object) -> list[float | None]:
        rewards: list[float | None] = example["verified"](**columns)
        asked.append(rewards)
        return rewards

    rows = [{"prompt": f"{n}+1=", "kind": "math", "reference": str(n + 1)} for n in range(8)]
    rows[1]["reference"] = "\\frac{1"
    config = GRPOConfig(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
        report_to=[], use_cpu=True, logging_steps=1,
    )  # fmt: skip
    trainer = GRPOTrainer(STUDENT, reward_funcs=counted, args=config, train_dataset=Dataset.from_list(rows))
    trainer.train()
    assert trainer.state.global_step == 2
    assert len(asked) == 2
    assert {reward for rewards in asked for reward in rewards} <= {0.0, 1.0, None}


def test_the_example_itself_runs(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    line = {"prompt": "1+1=", "kind": "math", "reference": "2"}
    rows.write_text("".join(json.dumps(line) + "\n" for _ in range(8)))
    subprocess.run([sys.executable, EXAMPLES / "trl_reward.py", STUDENT, rows], cwd=tmp_path, check=True, timeout=250)


def test_rewards_are_the_verifiers() -> None:
    verified = runpy.run_path(str(EXAMPLES / "trl_reward.py"))["verified"]
    chat = [[{"role": "assistant", "content": "\\boxed{2}"}]] * 3
    kinds, references = ["math"] * 3, ["2", "3", "\\frac{1"]
    assert verified(completions=chat, kind=kinds, reference=references) == [1.0, 0.0, None]


def test_the_teachers_loss_is_the_exact_divergence() -> None:
    """Over the whole vocabulary (K = V) the loss is the KL between two forwards, and it has a gradient."""
    from transformers import AutoModelForCausalLM

    loss_of = runpy.run_path(str(EXAMPLES / "trl_teacher.py"))["distillation_loss"]
    prompt, response = [3, 14, 15], [9, 20, 21]
    ids = torch.tensor([prompt + response])
    student = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32)
    logits_TV = student(ids).logits[0, len(prompt) - 1 : -1]
    with torch.no_grad():
        q = torch.log_softmax(teacher(ids).logits[0, len(prompt) - 1 : -1], -1)
    p = torch.log_softmax(logits_TV, -1)
    exact = (p.exp() * (p - q)).sum(-1).mean()
    for k, tolerance in ((100, 1e-3), (60, 0.1)):
        loss = loss_of(logits_TV, prompt, response, k=k)
        assert abs(float(loss) - float(exact)) < tolerance
        assert float(loss) <= float(exact) + 1e-4, "a bucket for the rest can only lose divergence"
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in student.parameters())
