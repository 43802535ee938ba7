"""Make the demo's tiny teacher and student from nothing.

``python -m rgopd.trainer.demo.make_checkpoints --out DIR``

Both are pre-trained on worked solutions of the train split. Each problem is shown now the right way, now with
the family's slip; how often is what sets the two apart (see ``slip_probability``).
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rgopd.trainer.demo.families import Problem
from rgopd.trainer.demo.rollout import accuracy, encode_prompt, to_tensor
from rgopd.trainer.demo.task import generate, problems
from rgopd.trainer.demo.tokenizer import build_tokenizer, save_tokenizer

log = logging.getLogger("make_checkpoints")

STUDENT_LOG_ODDS = {
    "A/add_mul": 0.6, "A/mul_add": 0.2, "A/brackets": 0.6, "A/borrow": 0.2, "A/sign": 0.4, "A/carry": 0.8,
    "A/hasty": 0.4, "A/code_order": 0.6, "A/code_brackets": 0.2,
    "B/square": -1.2, "B/left_to_right": -1.2, "B/code_floor": -1.2, "B/code_gap": -1.2,
}  # fmt: skip
"""Log-odds of the slip in the student's pre-training data, before the problem's trait shifts them."""
TRAIT_SHIFT = (0.2, -1.0, 1.0, -0.6, 0.6, -0.2, 1.4, -1.4)
"""Shift by ``Problem.trait``: greedy accuracy then moves step by step, not all at once."""


@dataclass(frozen=True)
class Recipe:
    """Size and pre-training of one checkpoint."""

    hidden: int
    layers: int
    intermediate: int
    steps: int
    learning_rate: float
    seed: int
    batch: int = 96
    label_smoothing: float = 0.002


RECIPES = {
    "teacher": Recipe(hidden=128, layers=3, intermediate=320, steps=2000, learning_rate=3e-3, seed=1),
    "student": Recipe(hidden=96, layers=3, intermediate=192, steps=2000, learning_rate=3e-3, seed=2),
}


def slip_probability(role: str, problem: Problem) -> float:
    """How often ``role`` sees ``problem`` worked out with its slip."""
    shift = TRAIT_SHIFT[problem.trait]
    if role == "student":
        log_odds = STUDENT_LOG_ODDS[problem.domain] + (0.5 * shift if problem.domain[0] == "B" else shift)
    elif problem.domain[0] == "A":
        log_odds = -3.5  # rarely, so that it can still judge what follows a slip
    else:
        log_odds = 2.0 + 1.6 * shift
    return 1 / (1 + math.exp(-log_odds))


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of the recipe's size, float32."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, num_hidden_layers=recipe.layers,
        intermediate_size=recipe.intermediate, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=128, tie_word_embeddings=True, use_sliding_window=False, initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def encode(problem: Problem, text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Input ids and labels; only the response is predicted (-100 elsewhere)."""
    prompt = encode_prompt(tokenizer, problem.prompt)
    response = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return prompt + response, [-100] * len(prompt) + response


def pretrain(role: str, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """AdamW with warm-up and cosine decay on freshly drawn batches."""
    model = new_model(recipe, tokenizer)
    log.info("%s: %s, %d parameters", role, recipe, sum(p.numel() for p in model.parameters()))
    pools = [
        [(slip_probability(role, p), encode(p, p.right, tokenizer), encode(p, p.slip, tokenizer)) for p in pool]
        for pool in problems("train").values()
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * s / recipe.steps))
    )
    rng, running = random.Random(recipe.seed), 0.0
    rows = generate(0, 300, "eval")
    for step in range(1, recipe.steps + 1):
        batch = []
        for i in range(recipe.batch):
            slip, right, wrong = rng.choice(pools[i % len(pools)])
            batch.append(wrong if rng.random() < slip else right)
        ids_BL, labels_BL = to_tensor([b[0] for b in batch]), to_tensor([b[1] for b in batch], -100)
        hidden = model.model(input_ids=ids_BL).last_hidden_state[:, :-1]
        answer = labels_BL[:, 1:] != -100
        loss = F.cross_entropy(
            model.lm_head(hidden[answer]), labels_BL[:, 1:][answer], label_smoothing=recipe.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 250 == 0:
            scores = accuracy(model.eval(), tokenizer, rows)
            log.info("%s step %4d loss %.4f greedy %s", role, step, running / 250, _short(scores))
            running = 0.0
            model.train()
    return model.eval()


def _short(scores: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.2f}" for name, value in scores.items())


def main() -> None:
    """Make, measure and save the chosen checkpoints."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(RECIPES), nargs="*", default=sorted(RECIPES))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(),
        logging.FileHandler(args.out / "make_checkpoints.log", mode="w"),
    ]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    rows = generate(0, 500, "eval")
    for role in args.only:
        started = time.perf_counter()
        model = pretrain(role, RECIPES[role], tokenizer)
        model.save_pretrained(args.out / role)
        save_tokenizer(tokenizer, args.out / role)
        size = sum(f.stat().st_size for f in (args.out / role).iterdir())
        log.info("%s: %.0f s, %.2f MB on disk", role, time.perf_counter() - started, size / 1e6)
        log.info("%s greedy on 500: %s", role, _short(accuracy(model, tokenizer, rows)))
        generator = torch.Generator().manual_seed(0)
        sampled = accuracy(model, tokenizer, rows, temperature=1.0, generator=generator)
        log.info("%s sampled at temperature 1 on 500: %s", role, _short(sampled))


if __name__ == "__main__":
    main()
