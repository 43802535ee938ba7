"""The whole loop with real processes: Valkey, teacher, verifier, sampler, two trainer ranks."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from redis import Redis
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgopd.common.run_files import Lines, RunFolder, explain, read_step
from rgopd.trainer.records.metrics import read_json_lines
from tests.e2e.conftest import Rgopd, eventually, processes_naming

STEPS = 3
SMALL = {
    "train.steps": STEPS,
    "train.sampling.prompts_per_step": 8,
    "train.sampling.n": 4,
    "train.sampling.groups_per_request": 4,
    "train.eval.n": 30,
    "train.checkpoint.every": 1,
    "train.optim.warmup_steps": 1,
    "up.samplers": 1,
}


def demo(rgopd: Rgopd, folder: Path) -> subprocess.Popen[str]:
    overrides = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    return rgopd("demo", "--output-dir", str(folder), "--seed", "3", *overrides)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, out + err
    return out


def steps_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [r for r in read_json_lines(path) if r["event"] == "step"] if path.exists() else []


def test_a_run_a_stopped_and_resumed_run_and_their_equality(rgopd: Rgopd, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    out = finish(demo(rgopd, whole))
    assert "Greedy accuracy on held-out problems" in out
    check_run_folder(whole)

    stopped = demo(rgopd, parted)
    eventually(lambda: len(steps_of(parted)) >= 1 and any((parted / "checkpoints").glob("step-*/trainer_state.json")))
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=600)
    assert stopped.returncode == 130, out + err
    assert "goes on from there" in out
    assert processes_naming(str(parted)) == []
    assert len(steps_of(parted)) < STEPS, "stopped too late to show anything"

    finish(demo(rgopd, parted))
    assert processes_naming(str(parted)) == []
    assert (parted / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    weights = [(folder / "student" / "model.safetensors").read_bytes() for folder in (whole, parted)]
    assert weights[0] == weights[1]
    check_what_people_see(whole, parted)


def check_run_folder(folder: Path) -> None:
    """Everything the README says a run leaves behind, and plausible numbers in it."""
    rows = read_json_lines(folder / "metrics.jsonl")
    assert [r["step"] for r in rows if r["event"] == "step"] == list(range(STEPS))
    assert [r["step"] for r in rows if r["event"] == "eval"] == [0, STEPS]
    for row in (r for r in rows if r["event"] == "step"):
        assert row["verdicts"]["passed"] + row["verdicts"]["failed"] == row["rollouts"] == 32
        assert row["verdicts"]["error"] == 0
        assert 0 < row["kept_fraction"] <= 1
        assert row["loss"] > 0
        assert row["behaviour_drift"] < 1e-5, "sampler and trainer disagree about the student"
        assert row["staleness_max"] == 0
    domains = [r for r in rows if r["event"] == "eval"][0]["by_domain"]
    assert any("code" in d for d in domains)
    assert any("code" not in d for d in domains)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["gate"]["granularity"] == "trajectory"
    assert config["steps"] == STEPS
    assert len(list((folder / "checkpoints").iterdir())) == 2
    assert (folder / "report.html").read_text().count("<tr>") > 5
    assert (folder / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert [r["step"] for r in read_json_lines(folder / "timings.jsonl") if r["event"] == "step"] == [0, 1, 2]
    check_student(folder / "student")


def check_what_people_see(whole: Path, parted: Path) -> None:
    """Of a run in one life and of the same run in two."""
    for folder in (whole, parted):
        run = RunFolder(folder)
        status = run.status()
        assert status is not None
        assert (status["phase"], status["step"], status["policy_version"]) == ("finished", STEPS, STEPS)
        assert run.kept_steps() == list(range(STEPS))
        for group, rollout in run.step(1).rollouts:
            assert rollout.outcome == "trained"
            said = explain(run.step(1), rollout)
            assert said.kept == ("all" if rollout.kept_tokens else "none")
            assert rollout.tokens is not None
            assert group.prompt_text.endswith("<|assistant|>")
            text = "".join(run.vocabulary.pieces(rollout.response_ids)).removesuffix("<|end|>")
            assert text.strip() == rollout.response_text.strip()
            assert sum(rollout.tokens.student) == pytest.approx(rollout.l_student, abs=1e-3)
    shown = [[(r.rollout_id, r.response_text, r.tokens) for _, r in read_step(f, 2).rollouts] for f in (whole, parted)]
    assert shown[0] == shown[1], "a run in two lives shows what a run in one life does"
    kinds = [(row["source"], row["kind"]) for row in Lines(parted / "events.jsonl").read().rows]
    first, second = kinds.index(("trainer", "started")), kinds.index(("trainer", "resumed"))
    assert first < kinds.index(("up", "stopping")) < second < kinds.index(("trainer", "finished"))


def check_student(folder: Path) -> None:
    """The distilled student is an ordinary Hugging Face folder, and not the one it started from."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "1+2*3="}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=48, do_sample=False)
    assert tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    start = AutoModelForCausalLM.from_pretrained("services/trainer/demo/checkpoints/student")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_the_state_of_a_run_can_be_read_from_redis(rgopd: Rgopd, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    running = demo(rgopd, folder)
    eventually(lambda: len(steps_of(folder)) >= 1)
    common = yaml.safe_load((folder / "up.yaml").read_text())["common"]
    redis = Redis.from_url(common["redis_url"])
    prefix = f"rgopd:{{{common['run_id']}}}"
    eventually(lambda: redis.exists(f"{prefix}:state"))
    state = {k.decode(): json.loads(v) for k, v in redis.hgetall(f"{prefix}:state").items()}
    assert {"step", "policy_version", "kept_fraction_positive", "kept_fraction_negative"} <= state["metrics"].keys()
    assert {"generate", "verify", "score", "results"} == state["queues"].keys()
    rollout = json.loads(redis.lrange(f"{prefix}:recent", 0, 0)[0])
    assert len(rollout["tokens"]) == len(rollout["teacher_minus_student"]) == len(rollout["kept"])
    status = json.loads(redis.get(f"{prefix}:status"))
    assert status["steps"] == STEPS
    assert status["stages"].keys() <= {"sampling", "verifying", "scoring", "training"}
    assert [json.loads(row)["step"] for row in redis.lrange(f"{prefix}:rows", 0, 1)] == [0, 0]  # evaluation, step
    assert json.loads(redis.lindex(f"{prefix}:events", -1))["kind"] == "phase"
    redis.close()
    finish(running)
