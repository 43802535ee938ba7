"""Make the example's two tiny models and its rows: `python examples/environments/make_models.py [--only rows]`.

The teacher begins as the demo's and is shown conversations in which the tool is called, what it says is read, and what
the sandbox refused is repaired. The student is that teacher after a short bad school: it guesses products of large
numbers, breaks the call's JSON, or says the same wrong program again. What they hear is what the real environments say.
"""

import argparse
import importlib.util
import json
import logging
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgopd.common.between import Between
from rgopd.trainer.demo.rollout import encode_prompt, to_tensor
from rgopd.trainer.demo.task import problems
from rgopd.trainer.demo.tokenizer import save_tokenizer
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.environments.base import Episode
from rgopd.verifier.environments.feedback import FeedbackEnvironment
from rgopd.verifier.main import build_engine

log = logging.getLogger("make_models")
HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "services/trainer/demo/checkpoints"
CONTEXT, OBSERVATION_TOKENS = 256, 40
REPAIR = ("A/code_order", "A/code_brackets", "B/code_floor", "B/code_gap")
TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Work out an arithmetic expression of numbers, + - * / // % and brackets.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
BROKEN = "error: this call is not JSON: Expecting ',' delimiter"  # as far as the student hears it
HABITS = {
    "teacher": {"call": 0.97, "broken": 0.02, "again": 0.97, "slip": 0.5, "repaired": 0.97},
    "student": {"call": 0.45, "broken": 0.2, "again": 0.4, "slip": 0.6, "repaired": 0.25},
}
"""How often each does what: a call at first, a call that is no JSON (else it guesses); a call after a broken one; a
wrong program at first, and a right one after that."""
STEPS = {"teacher": 500, "student": 40}
BATCH, LEARNING_RATE = {"teacher": 64, "student": 32}, {"teacher": 1e-3, "student": 3e-4}


def calculator():
    """The shipped environment's class."""
    spec = importlib.util.spec_from_file_location("calculator", HERE / "calculator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Calculator()


def expression(rng):
    """One that a model of this size cannot work out in its head."""
    a, b, c = rng.randint(12, 99), rng.randint(12, 99), rng.randint(2, 99)
    return rng.choice((f"{a}*{b}", f"{a}*{b}+{c}", f"{a}*{b}-{c}", f"{a * 10 + c % 10}*{b % 10 + 2}"))


def call(text):
    """Hermes' form."""
    return f"<tool_call>{json.dumps({'name': 'calculate', 'arguments': {'expression': text}})}</tool_call>"


def arithmetic(habits, rng, tool):
    """(prompt, [turns], [observations]) of one conversation with the calculator."""
    text = expression(rng)
    value = int(tool.calculate(text))
    right, guess = f"\\boxed{{{value}}}", f"\\boxed{{{max(2, value + rng.randint(-300, 300))}}}"
    first = rng.random()
    if first < habits["call"]:
        return text, [call(text), right], [str(value)]
    if first < habits["call"] + habits["broken"]:
        broken = call(text).replace("}}<", "}<")
        if rng.random() < habits["again"]:
            return text, [broken, call(text), right], [BROKEN, str(value)]
        return text, [broken, guess], [BROKEN]
    return text, [guess], []


def repair(habits, rng, pool):
    """One conversation about a function."""
    problem, reason = rng.choice(pool)
    if rng.random() > habits["slip"]:
        return problem.prompt, [problem.right], []
    if rng.random() < habits["repaired"]:
        return problem.prompt, [problem.slip, problem.right], [reason]
    return problem.prompt, [problem.slip] * 3, [reason] * 2


def encode(tokenizer, between, conversation):
    """Input ids, and labels of the model's own words alone."""
    prompt, turns, observations = conversation
    ids = encode_prompt(tokenizer, prompt)
    labels = [-100] * len(ids)
    for number, turn in enumerate(turns):
        said = [*tokenizer.encode(turn, add_special_tokens=False), tokenizer.eos_token_id]
        heard = []
        if number < len(observations):
            heard = between.ids(said[-1], observations[number], OBSERVATION_TOKENS).tolist()
        ids, labels = ids + said + heard, labels + said + [-100] * len(heard)
    return ids[:CONTEXT], labels[:CONTEXT]


def reasons():
    """What the sandbox says of each wrong program of the train split."""
    engine, _ = build_engine(VerifierConfig(workers=2, math_workers=1))
    feedback = FeedbackEnvironment(engine)
    try:
        found = []
        for domain in REPAIR:
            for problem in problems("train")[domain]:
                words = {"message": "{reason}"}
                said = feedback.answer(
                    Episode("make", "feedback", words, 0, (problem.slip,), (), "code", problem.answer)
                )
                if said.text:
                    found.append((problem, said.text))
        return found
    finally:
        engine.close()


def train(role, pool, tokenizer):
    """The model of a role, with its habits learnt."""
    begin = DEMO / "teacher" if role == "teacher" else HERE / "models/teacher"
    model = AutoModelForCausalLM.from_pretrained(begin, dtype=torch.float32)
    model.config.max_position_embeddings = CONTEXT
    between, tool, rng = Between(tokenizer), calculator(), random.Random(role)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE[role], betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE[role], STEPS[role], pct_start=0.1)
    for step in range(1, STEPS[role] + 1):
        said = [arithmetic(HABITS[role], rng, tool) for _ in range(BATCH[role] // 2)]
        said += [repair(HABITS[role], rng, pool) for _ in range(BATCH[role] // 2)]
        rows = [encode(tokenizer, between, each) for each in said]
        ids_BL, labels_BL = to_tensor([r[0] for r in rows]), to_tensor([r[1] for r in rows], -100)
        hidden = model.model(input_ids=ids_BL).last_hidden_state[:, :-1]
        own = labels_BL[:, 1:] != -100
        loss = F.cross_entropy(model.lm_head(hidden[own]), labels_BL[:, 1:][own], label_smoothing=0.002)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            log.info("%s step %d loss %.4f", role, step, loss.item())
    return model.eval()


def write_rows(pool):
    """calculator.jsonl and repair.jsonl."""
    rng, tool = random.Random(0), calculator()
    rows = []
    for number, text in enumerate(dict.fromkeys(expression(rng) for _ in range(200))):
        row = {"id": f"calculator-{number:03}", "prompt": text, "environment": "calculator", "tools": [TOOL]}
        rows.append(row | {"kind": "math", "domain": "calculator", "reference": tool.calculate(text)})
    (HERE / "calculator.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {"name": "feedback", "args": {"message": "{reason}"}}
    rows = [
        {"id": f"repair-{number:03}", "prompt": problem.prompt, "environment": environment, "kind": "code"}
        | {"domain": "repair", **problem.answer}
        for number, (problem, _) in enumerate(rng.sample(pool, 200))
    ]
    (HERE / "repair.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    """Rows, then both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("rows", "teacher", "student"), nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    chosen = args.only or ["rows", "teacher", "student"]
    pool = reasons()
    log.info("%d wrong programs, such as: %s", len(pool), pool[0][1])
    if "rows" in chosen:
        write_rows(pool)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "student")
    tokenizer.model_max_length = CONTEXT
    for role in [role for role in HABITS if role in chosen]:
        model = train(role, pool, tokenizer)
        model.save_pretrained(HERE / "models" / role)
        save_tokenizer(tokenizer, HERE / "models" / role)


if __name__ == "__main__":
    main()
