"""Reward-gated on-policy distillation, the whole algorithm in one file and one process.

Read it beside the distributed system: the same steps in the same order, without services, streams or FSDP.
``python -m rgopd.trainer.demo.simulate --gate paper --seed 0``
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rgopd.trainer.demo.rollout import accuracy, encode_prompt, is_right, sample, to_tensor
from rgopd.trainer.demo.task import generate

log = logging.getLogger("simulate")
CHECKPOINTS = Path(__file__).parent / "checkpoints"


def group_advantage(rewards_GN: Tensor, eps: float = 1e-4) -> Tensor:
    """GRPO: ``(r - mean) / (std + eps)`` within each group of ``N`` rollouts; zero where all agree."""
    centred = rewards_GN - rewards_GN.mean(1, keepdim=True)
    return centred / (rewards_GN.std(1, keepdim=True, unbiased=False) + eps)


def gate(preset: str, signal_B: Tensor, teacher_BT: Tensor, student_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Which tokens the loss uses, as 0/1 ``[B, T]``.

    Args:
        preset: ``paper`` (Eq. 2: per trajectory, zero counts as negative), ``released`` (per token, zero is
            masked), or ``off``.
        signal_B: advantage or signed reward per rollout.
        teacher_BT, student_BT: log-probabilities of the sampled tokens.
    """
    if preset == "off":
        return mask_BT
    gap_BT = (teacher_BT - student_BT) * mask_BT
    if preset == "paper":
        gap_BT = gap_BT.sum(1, keepdim=True)  # L_T - L_S, Eq. 1
    positive_B1 = (signal_B > 0)[:, None]
    kept = torch.where(positive_B1, gap_BT > 0, gap_BT < 0)
    if preset == "released":
        kept &= (signal_B != 0)[:, None]
    return kept * mask_BT


def topk_reverse_kl(student_BTV: Tensor, teacher_BTV: Tensor, k: int) -> Tensor:
    """Eq. 4: KL(student || teacher) over the student's top-K ids plus one bucket for the tail, ``[B, T]`` nats.

    Both inputs are log-probabilities over the vocabulary; gradients flow through both terms.
    """
    ids_BTK = student_BTV.detach().topk(k, dim=-1).indices
    student_BTK, teacher_BTK = student_BTV.gather(-1, ids_BTK), teacher_BTV.gather(-1, ids_BTK)
    student_tail, teacher_tail = _log_tail(student_BTK), _log_tail(teacher_BTK)
    head = (student_BTK.exp() * (student_BTK - teacher_BTK)).sum(-1)
    return head + student_tail.exp() * (student_tail - teacher_tail)


def _log_tail(logprobs_BTK: Tensor) -> Tensor:
    return torch.log(-torch.expm1(logprobs_BTK.logsumexp(-1).clamp(max=-1e-7)))


def response_logprobs(model: PreTrainedModel, ids_BL: Tensor, start: int, temperature: float) -> Tensor:
    """Log-probabilities ``[B, T, V]`` that predict ``ids_BL[:, start:]``; prompts are left-padded to ``start``."""
    mask = ids_BL.ne(0)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = model.model(input_ids=ids_BL, attention_mask=mask, position_ids=position).last_hidden_state
    logits_BTV: Tensor = model.lm_head(hidden[:, start - 1 : -1]).float()
    return (logits_BTV / temperature).log_softmax(-1)


def train_step(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    args: argparse.Namespace,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Sample ``n`` rollouts per row, judge, score, gate; return the loss of Eq. 3 and the step's metrics."""
    # 1. The student samples n rollouts for each prompt.
    prompts = [encode_prompt(tokenizer, row["prompt"]) for row in rows for _ in range(args.n)]
    responses = sample(student, prompts, tokenizer.eos_token_id, temperature=args.temperature, generator=generator)
    # 2. The verifier judges the final answers; rewards become advantages within each group.
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    rewards_B = torch.tensor([float(is_right(rows[i // args.n], text)) for i, text in enumerate(texts)])
    advantage_B = group_advantage(rewards_B.view(-1, args.n)).flatten()
    # 3. The teacher scores the same tokens; the student's current log-probs come from the loss's own forward.
    width = max(map(len, prompts))
    ids_BL = torch.cat([to_tensor([p[::-1] for p in prompts]).flip(1), to_tensor(responses)], 1)
    target_BT = ids_BL[:, width:]
    mask_BT = target_BT.ne(0).float()
    with torch.no_grad():
        teacher_BTV = response_logprobs(teacher, ids_BL, width, args.temperature)
    student_BTV = response_logprobs(student, ids_BL, width, args.temperature)
    # 4. The gate decides which tokens the teacher may teach (Eq. 2), and the loss is their mean KL (Eq. 3).
    teacher_BT = teacher_BTV.gather(-1, target_BT[..., None])[..., 0]
    student_BT = student_BTV.detach().gather(-1, target_BT[..., None])[..., 0]
    signal_B = advantage_B if args.signal == "advantage" else rewards_B * 2 - 1
    kept_BT = gate(args.gate, signal_B, teacher_BT, student_BT, mask_BT)
    kl_BT = topk_reverse_kl(student_BTV, teacher_BTV, args.k)
    loss = (kl_BT * kept_BT).sum() / kept_BT.sum().clamp(min=1)

    def share(rollouts_B: Tensor) -> float:
        return float((kept_BT[rollouts_B].sum() / mask_BT[rollouts_B].sum().clamp(min=1)).item())

    in_b = torch.tensor([row["domain"][0] == "B" for row in rows]).repeat_interleave(args.n)
    metrics = {
        "loss": loss.item(),
        "reward": rewards_B.mean().item(),
        "reward_b": rewards_B[in_b].mean().item(),
        "length": mask_BT.sum(1).mean().item(),
        "zero_advantage": (advantage_B == 0).float().mean().item(),
        "kept": share(mask_BT[:, 0] > 0),
        "kept_positive": share(advantage_B > 0),
        "kept_zero": share(advantage_B == 0),
        "kept_negative": share(advantage_B < 0),
        "kept_b": share(in_b),
    }
    return loss, metrics


def distil(args: argparse.Namespace) -> dict[str, Any]:
    """One run; returns greedy accuracies before and after and the metrics of every step."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoints / "student")
    student = AutoModelForCausalLM.from_pretrained(args.checkpoints / "student", dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(args.checkpoints / "teacher", dtype=torch.float32).eval()
    held_out = generate(0, args.eval, "eval")
    stream = generate(args.seed, args.steps * args.prompts, "train")
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=args.lr, betas=(args.beta1, args.beta2), weight_decay=args.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / args.warmup, 0.5 + 0.5 * math.cos(math.pi * s / args.steps))
    )
    result: dict[str, Any] = {"config": {k: str(v) for k, v in vars(args).items()}, "steps": []}
    result["before"] = accuracy(student, tokenizer, held_out)
    for step in range(args.steps):
        started = time.perf_counter()
        rows = stream[step * args.prompts : (step + 1) * args.prompts]
        loss, metrics = train_step(student, teacher, tokenizer, rows, args, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), args.clip)
        optimizer.step()
        schedule.step()
        metrics["seconds"] = time.perf_counter() - started
        if args.eval_every and (step + 1) % args.eval_every == 0:
            scores = accuracy(student, tokenizer, held_out[:250])
            metrics |= {f"eval_{name}": scores[name] for name in ("all", "A", "B")}
        result["steps"].append(metrics)
        if args.verbose and (step + 1) % 10 == 0:
            log.info("%d %s", step + 1, " ".join(f"{k}={v:.3f}" for k, v in metrics.items()))
    result["after"] = accuracy(student, tokenizer, held_out)
    return result


def parser() -> argparse.ArgumentParser:
    """The options, with the demo's recommended values as defaults."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    p.add_argument("--out", type=Path, help="write the result as JSON")
    p.add_argument("--gate", choices=("paper", "released", "off"), default="paper")
    p.add_argument("--signal", choices=("advantage", "reward"), default="advantage")
    p.add_argument("--verbose", action="store_true")
    for name, default in (("seed", 0), ("steps", 40), ("prompts", 32), ("n", 8), ("k", 16), ("warmup", 10)):
        p.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("threads", 1), ("eval", 500), ("eval-every", 0)):
        p.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("lr", 1e-3), ("temperature", 1.0), ("beta1", 0.9), ("beta2", 0.95)):
        p.add_argument(f"--{name}", type=float, default=value)
    for name, value in (("weight-decay", 0.0), ("clip", 1.0)):
        p.add_argument(f"--{name}", type=float, default=value)
    return p


def main() -> None:
    """Run one distillation and print greedy accuracy by domain, before and after."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = distil(args)
    for name, before in result["before"].items():
        log.info("%-18s %.3f -> %.3f", name, before, result["after"][name])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
