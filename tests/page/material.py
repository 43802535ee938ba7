"""Run folders for the page's tests that no short run makes: ten thousand steps, and a response out of a bad dream.

They are written by the trainer's own writers where there is one, so that a change of format breaks them.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rgopd.common.run_files import Vocabulary
from rgopd.common.run_files.kept_files import pack, step_path, write_step

SIGNS = ("positive", "zero", "negative")
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> </script><!-- \u202eמה שלומך\u202c "
    "السلام عليكم 👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u0000\u0007 \ud800 '\"`${1}` javascript:alert(1) &lt;b&gt; \u2028 end"
)
LONG = 20_000


def metrics_row(step: int, steps: int, rng: random.Random) -> dict[str, Any]:
    """A row like the demo's, with curves that move."""
    at = step / steps
    row: dict[str, Any] = {
        "event": "step",
        "step": step,
        "policy_version": step,
        "rollouts": 256,
        "reward_mean": 0.5 + 0.4 * at + rng.gauss(0, 0.04),
        "pass_rate": 0.5 + 0.4 * at + rng.gauss(0, 0.04),
        "verdicts": {"passed": int(128 + 100 * at), "failed": int(128 - 100 * at), "error": 0},
        "response_length_mean": 30 + 4 * math.sin(9 * at) + rng.gauss(0, 1),
        "truncated_fraction": 0.01,
        "stage_failures": {},
        "redrawn_groups": 0,
        "dropped_groups": 0,
        "reward_by_domain": {f"A/{name}": rng.random() for name in ("carry", "sign", "borrow", "brackets")},
        "staleness_max": 0,
        "staleness_mean": 0.0,
        "trained_rollouts": 256,
        "loss": 0.15 * math.exp(-2 * at) + abs(rng.gauss(0, 0.02)) + (2.0 if step == 7777 else 0.0),
        "entropy": 0.4 * math.exp(-at),
        "response_tokens": 7680.0,
        "kept_tokens": 4600.0,
        "kept_fraction": 0.6 + rng.gauss(0, 0.05),
        "padding_fraction": 0.0,
        "behaviour_drift": 1e-8,
        "importance_mean": 1.0,
        "importance_effective_fraction": 1.0,
        "importance_truncated_fraction": 0.0,
        "lr": 1e-3 * (1 - at),
        "skipped": 0.0,
        "grad_norm": 0.5 + abs(rng.gauss(0, 0.1)),
    }
    for sign in SIGNS:
        row |= {f"tokens_{sign}": 2500.0, f"kept_fraction_{sign}": 0.5 + rng.gauss(0, 0.05)}
        row |= {f"teacher_gap_{sign}": rng.gauss(-0.1, 0.05), f"teacher_above_{sign}": 0.3}
    return row


def clock_row(step: int, rng: random.Random) -> dict[str, Any]:
    parts = {
        "sampling_s": 1.2,
        "verifying_s": 0.1,
        "scoring_s": 0.3,
        "train_s": 0.8,
        "publish_s": 0.05,
        "watch_s": 0.01,
    }
    parts = {name: value * (1 + 0.2 * rng.random()) for name, value in parts.items()}
    collect = parts["sampling_s"] + parts["verifying_s"] + parts["scoring_s"]
    seconds = collect + parts["train_s"] + parts["publish_s"]
    more = {"collect_s": collect, "tokens_per_s": 7680 / seconds, "rss_bytes": 9e8, "gpu_bytes": 0}
    return {"event": "step", "step": step, "time": 1.7e9 + 3 * step, "seconds": seconds, **parts, **more}


def write_run(folder: Path, steps: int, total: int = 0, seed: int = 0) -> Path:
    """metrics.jsonl, timings.jsonl and config.yaml of so many steps."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "timings.jsonl").open("w") as timings:
        for step in range(steps):
            if step % max(1, steps // 20) == 0:
                accuracy = 0.5 + 0.4 * step / steps
                domains = {"A/carry": {"accuracy": accuracy, "problems": 60}}
                row = {"event": "eval", "step": step, "accuracy": accuracy, "problems": 500, "by_domain": domains}
                metrics.write(json.dumps(row) + "\n")
            metrics.write(json.dumps(metrics_row(step, steps, rng)) + "\n")
            timings.write(json.dumps(clock_row(step, rng)) + "\n")
    settings = {"steps": total or steps, "student": "/models/tiny", "objective": {"name": "rg_opd"}, "seed": seed}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def append_step(folder: Path, step: int, steps: int) -> None:
    """One more step, as the trainer would write it."""
    rng = random.Random(step)
    with (folder / "metrics.jsonl").open("a") as metrics, (folder / "timings.jsonl").open("a") as timings:
        metrics.write(json.dumps(metrics_row(step, steps, rng)) + "\n")
        timings.write(json.dumps(clock_row(step, rng)) + "\n")


def write_hostile_rollouts(folder: Path, step: int = 3) -> None:
    """A group of which one response is `HOSTILE`, and another has 20,000 tokens."""
    tokens = [bytes([b]) for b in range(256)] + [b"<script>", "🏳️‍🌈".encode(), b"</eos>"]
    Vocabulary(tokens, special=[258]).write(folder)
    text = HOSTILE.encode("utf-8", "replace")
    short = [256, *text, 257, 258]
    long = [97 + i % 26 if i % 7 else 32 for i in range(LONG)]
    gate = {"enabled": True, "granularity": "trajectory", "chunk_size": 64, "zero_advantage": "negative"}
    gate |= {"signal": "advantage", "delta": 0.0, "warmup_steps": 0, "min_kept_fraction": 0.0}
    header = {"kind": "step", "format": 1, "step": step, "rank": 0, "ranks": 1, "time": 1.7e9, "policy_version": step}
    header |= {"objective": "rg_opd", "gate": gate, "gate_open": False, "prefilter": "off", "tail": "tail", "k": 4}
    header |= {"support": "student", "temperature": 1.0, "max_new_tokens": LONG, "groups": 1, "rollouts": 2}
    header |= {"trained": 2, "kept_rollouts": 2}
    group = {"kind": "group", "group_id": "s000003-g0000", "prompt_id": "p", "prompt_text": "Say: " + HOSTILE}
    group |= {"prompt_ids": pack(np.array([1, 2]), "i4"), "domain": "A/<i>dom", "teacher": "", "redraw": 0}
    group |= {"check": {"kind": "code", "tests": ["assert f(1) == 2", "<b>x</b>"]}, "policy_version": step}
    failed = {"status": "failed", "reason": "test 2: <script>window.hacked = 1</script> is not 2", "duration_ms": 3.0}
    failed |= {
        "extracted": "<b>x</b>",
        "tests": [{"status": "passed"}, {"status": "failed", "reason": "<u>3</u> != 2"}],
    }
    rows: list[dict[str, Any]] = [header, group]
    for index, (ids, advantage, verdict, response) in enumerate(
        [
            (short, -1.0, failed, HOSTILE),
            (long, 1.0, {"status": "passed", "reason": "", "tests": []}, bytes(long).decode()),
        ]
    ):
        name = f"s000003-g0000-n{index:03d}"
        row = {"kind": "rollout", "id": name, "group_id": "s000003-g0000", "index": index, "response_text": response}
        row |= {"response_ids": pack(np.array(ids), "i4"), "finish": "stop", "verdict": verdict, "outcome": "trained"}
        row |= {"reward": float(index), "advantage": advantage, "reason": "", "policy_version": step}
        rows += [row, figures_row(name, ids, kept=index == 1)]
    write_step(step_path(folder, step), rows)


def figures_row(name: str, ids: list[int], *, kept: bool, k: int = 4) -> dict[str, Any]:
    """Figures by token: the sampled one has .6 of the student and between .1 and .9 of the teacher."""
    count = len(ids)
    wave = 0.5 + 0.4 * np.sin(np.arange(count) / 3)
    support = np.stack([np.array(ids), *[(np.array(ids) + i) % 256 for i in range(1, k)]], 1)
    student = np.log(np.tile([0.6, 0.2, 0.1, 0.05], (count, 1)))
    teacher = np.log(np.stack([wave, *[(0.95 - wave) / 3] * 3], 1))
    figures = {"student": student[:, 0], "behaviour": student[:, 0], "teacher": teacher[:, 0], "loss": wave}
    figures |= {"tail_student": np.full(count, np.log(0.05)), "tail_teacher": np.full(count, np.log(0.05))}
    row: dict[str, Any] = {"kind": "tokens", "id": name, "rank": 0, "k": k, "cut": False}
    row |= {"l_teacher": float(teacher[:, 0].sum()), "l_student": float(student[:, 0].sum())}
    row |= {"kept_tokens": count if kept else 0, "keep": pack(np.full(count, kept), "u1")}
    row |= {key: pack(value, "f4") for key, value in figures.items()}
    return row | {
        "support_ids": pack(support, "i4"),
        "support_student": pack(student, "f2"),
        "support_teacher": pack(teacher, "f2"),
    }
