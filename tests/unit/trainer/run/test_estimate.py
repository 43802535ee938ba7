from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from rgopd.cli.advice import advise
from rgopd.cli.plan import Planner, find_device, measured_seconds, run_plan, steps_of
from rgopd.common import wire
from rgopd.common.errors import ConfigError
from rgopd.common.settings import parse_overrides, read_files
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.run.estimate import ModelShape, redis_bytes, trainer_need
from rgopd.trainer.run.seconds import DEVICES, Device, cpu_token_seconds, longest_of, step_seconds

PAPER = Path(__file__).parents[4] / "services" / "configs" / "qwen2.5-1.5b-ultrainteract.yaml"
SMALL: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
QWEN_1_5B = dict(
    SMALL,
    vocab_size=151_936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    tie_word_embeddings=True,
)
QWEN_14B = dict(
    SMALL,
    vocab_size=152_064,
    hidden_size=5120,
    intermediate_size=13_824,
    num_hidden_layers=48,
    num_attention_heads=40,
    num_key_value_heads=8,
)


def model_folder(folder: Path, settings: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **settings})
    )
    return str(folder)


def settings(**changes: Any) -> TrainConfig:
    base = {"student": "x", "dataset": {"path": "x", "max_prompt_tokens": 256}, "distillation": {"k": 16}}
    return TrainConfig.from_mapping({**base, **changes})


def test_shapes_come_from_the_config_alone_and_count_what_the_model_has(tmp_path: Path, student_folder: Path) -> None:
    shape = ModelShape.of(str(student_folder))
    assert shape.parameters == AutoModelForCausalLM.from_pretrained(student_folder).num_parameters()
    qwen = ModelShape.of(model_folder(tmp_path / "q", QWEN_1_5B))
    assert qwen.parameters == 1_543_714_304  # what Qwen2.5-1.5B's model card calls 1.54B
    assert qwen.root_parameters == 151_936 * 1536 + 1536
    assert (qwen.attention, qwen.kv) == (1536, 256)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ModelShape.of(str(tmp_path / "absent"))


def test_the_estimate_is_near_the_measured_peak_of_a_real_step(tmp_path: Path) -> None:
    """Peak resident memory of a process that takes two steps of two micro-batches on this CPU, within 20%."""
    case = {"model": SMALL, "dtype": "float32", "gradient_checkpointing": False, "k": 16}
    case |= {"rollouts": 2, "prompt": 128, "response": 256}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    program = [sys.executable, "-W", "ignore", "-m", "tests.unit.trainer.peak", json.dumps(case)]
    root = Path(__file__).parents[4]
    done = subprocess.run(program, cwd=root, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    config = settings(sampling={"max_new_tokens": 256}, batch={"micro_batch_tokens": 768})
    need = trainer_need(config, ModelShape.of(model_folder(tmp_path / "m", SMALL)), on_gpu=False)
    assert need.total == pytest.approx(measured["peak"], rel=0.20)


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": "selective"},
        {"batch": {"micro_batch_tokens": 4096}},
        {"nproc": 4},
        {"dtype": "bfloat16"},
    ],
)
def test_every_knob_of_the_trainer_saves_memory(tmp_path: Path, change: dict[str, Any]) -> None:
    shape = ModelShape.of(model_folder(tmp_path / "m", QWEN_1_5B))
    before, after = settings(), settings(**change)
    assert trainer_need(after, shape, on_gpu=True).total < 0.95 * trainer_need(before, shape, on_gpu=True).total


@pytest.mark.parametrize("support", ["student", "teacher"])
def test_redis_bytes_are_those_of_real_messages(support: str) -> None:
    config = settings(distillation={"k": 50, "support": support})
    tokens, k, floats = 300, 50, np.float32
    rollout = rollout_pb2.Rollout(
        prompt_ids=wire.to_tensor(np.zeros(100, np.int32)),
        response_ids=wire.to_tensor(np.zeros(tokens, np.int32)),
        sampled_logprobs=wire.to_tensor(np.zeros(tokens, floats)),
        support_ids=wire.to_tensor(np.zeros((tokens, k if support == "student" else 0), np.int32)),
        response_text="word" * tokens,
    )
    score = teacher_pb2.TeacherScore(
        sampled_logprobs=wire.to_tensor(np.zeros(tokens, floats)),
        topk_logprobs=wire.to_tensor(np.zeros((tokens, k), floats)),
        tail_logprob=wire.to_tensor(np.zeros(tokens, floats)),
    )
    if support == "teacher":
        score.topk_ids.CopyFrom(wire.to_tensor(np.zeros((tokens, k), np.int32)))
    real = rollout.ByteSize() + score.ByteSize()
    estimate = redis_bytes(config, tokens, 100)
    assert estimate["a rollout"] == pytest.approx(real, rel=0.02)
    assert estimate["at once"] == estimate["a step"]
    assert redis_bytes(config.model_copy(update={"max_staleness": 2}), tokens, 100)["at once"] == 3 * estimate["a step"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    student, teacher = model_folder(folder / "s", QWEN_1_5B), model_folder(folder / "t", QWEN_14B)
    return [f"train.student={student}", f"sampler.student={student}", f"teacher.model={teacher}"]


def test_the_papers_run_fits_five_h100_and_says_so(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan([PAPER], models, "h100", 0.0, 700, None) == 0
    out = capsys.readouterr().out
    assert "fits: h100" in out
    assert [f"GPU {n} (h100)" in out for n in range(6)] == [True] * 5 + [False]
    assert "sampler (vLLM, 1 of 1)" in out
    assert "warning" not in out
    beside = [*models, "up.gpus.sampler=0", "sampler.vllm={gpu_memory_utilization: 0.25}"]
    assert run_plan([PAPER], beside, "h100", 0.0, 700, None) == 0
    capsys.readouterr()
    greedy = [*models, "up.gpus.sampler=0", "sampler.vllm={gpu_memory_utilization: 0.9}"]
    assert run_plan([PAPER], greedy, "h100", 0.0, 700, None) == 1, "vLLM takes what it is told to"
    capsys.readouterr()
    assert run_plan([PAPER], [*models, "sampler.engine=transformers"], "h100", 0.0, 700, None) == 0
    assert "about ten times slower than vLLM" in capsys.readouterr().out
    assert "700 response tokens, given" in out


def test_an_overfull_plan_names_settings_that_make_it_fit(
    models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*models, "train.gradient_checkpointing=false"]
    assert run_plan([PAPER], overrides, "a100-40", 0.0, 0, None) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("--set ")]
    assert "--set train.gradient_checkpointing=true" in lines
    for line in lines:
        more = [word for word in line.split() if word != "--set"]
        assert run_plan([PAPER], [*overrides, *more], "a100-40", 0.0, 0, None) == 0, line


def test_where_one_setting_is_not_enough_several_are_named(models: list[str]) -> None:
    device, on_gpu = find_device("l4", 0.0)
    sections = read_files([PAPER])
    overrides = [*models, "train.gradient_checkpointing=false", "train.dtype=float32"]
    from rgopd.cli.sections import override

    planner = Planner(override(sections, overrides), device, on_gpu=on_gpu)
    [advice] = advise(planner, planner.plan())
    assert advice.startswith("all of: --set train.gradient_checkpointing=true")
    more = [word for word in advice.removeprefix("all of: ").split() if word != "--set"]
    assert not Planner(override(sections, [*overrides, *more]), device, on_gpu=on_gpu).plan().overfull
    assert parse_overrides(more)


def test_times_measured_in_a_run_replace_the_assumed_ones(tmp_path: Path) -> None:
    rows = [
        {"event": "step", "step": i, "collect_s": c, "train_s": 2.0, "publish_s": 0.5} for i, c in enumerate((9, 3, 5))
    ]
    (tmp_path / "timings.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert measured_seconds(tmp_path) == {"collect": 4.0, "train": 2.0, "publish": 0.5}
    with pytest.raises(ConfigError, match=r"no timings\.jsonl"):
        measured_seconds(tmp_path / "absent")


def test_seconds_on_a_cpu_by_hand() -> None:
    """Layers 1e9 and head 1e8 parameters; a teacher of 2e9 and 2e8; 4 groups of 4, 100 + 50 tokens, batches of 8.

    float32: 2e11 FLOP/s, half reached: 1e11; bfloat16: 4e11, 2e11; bytes: 1e10 a second. Training: 1e9 x 2,400 +
    1e8 x 800 = 2.48e12, six times: 148.8 s, adapters alone 99.2 s. Scoring: 2e9 x 2,400 + 2e8 x 800 = 4.96e12, twice:
    99.2 s in float32, 49.6 s in bfloat16. A token of a batch: 1e9 weights of the layers are read (0.4 s), longer than
    8 rows multiply with them at half of that speed (0.32 s), in bfloat16 0.2 and 0.16 s; 1e8 of the head 0.04 s, in
    bfloat16 2 + 4 + 4 bytes each: 0.1 s; 8e6 logits drawn from: 0.048 s. A batch lasts until its longest response:
    50 x (1 + 1/2 + ... + 1/8) = 135.9 is over 64; 2 batches x 64; and prompts: 2e9 x 400 / 1e11 = 8 s. Sampler and
    teacher share the cores: half as long again.
    """
    student = ModelShape(1_200_000_000, 10, 100, 256, 64, 64, 10**6, 10**8)
    teacher = ModelShape(2_400_000_000, 10, 200, 256, 64, 64, 10**6, 2 * 10**8)
    sampling = {"prompts_per_step": 4, "n": 4, "groups_per_request": 2, "max_new_tokens": 64}
    given = {"student": "S", "dataset": {"path": "d"}, "sampling": sampling, "nproc": 2}

    def seconds(
        teacher_dtype: str = "float32", response: float = 50, sampler_dtype: str = "float32", **more: Any
    ) -> dict[str, float]:
        return step_seconds(
            TrainConfig.from_mapping({**given, **more}),
            student,
            teacher,
            Device("cpu", 1 << 34, 2e11, 2e10, 4e11),
            mean_response=response,
            mean_prompt=100,
            tensor_parallel=1,
            samplers=2,
            sampler_engine="transformers",
            sampler_dtype=sampler_dtype,
            teacher_dtype=teacher_dtype,
            on_gpu=False,
        )

    alone = 8 + (0.4 + 0.04 + 0.048) * 64 * 2
    expected = {"sample": 1.5 * alone, "score": 1.5 * 99.2, "train": 148.8, "publish": 9.6}
    assert seconds() == pytest.approx(expected)
    assert seconds(sampler_dtype="bfloat16")["sample"] == pytest.approx(1.5 * (4 + (0.2 + 0.1 + 0.048) * 64 * 2))
    assert seconds("bfloat16")["score"] == pytest.approx(1.5 * 49.6)
    assert seconds(lora=16)["train"] == pytest.approx(99.2)
    assert seconds(lora=16, dtype="bfloat16")["train"] == pytest.approx(49.6)
    assert seconds(lora=16, gradient_checkpointing=True)["train"] == pytest.approx(148.8)
    without_teacher = seconds(objective="grpo", gate="off")
    assert without_teacher["score"] == 0
    assert without_teacher["sample"] == pytest.approx(alone)
    assert seconds(response=10)["sample"] == pytest.approx(1.5 * (8 + 0.488 * 10 * 761 / 280 * 2))


QWEN_0_5B = ModelShape(494_032_768, 24, 896, 4864, 896, 128, 151_936, 14_912_384)
QWEN_1_5B_SHAPE = ModelShape(1_543_714_304, 28, 1536, 8960, 1536, 256, 151_936, 46_797_824)
SMOKE: dict[str, Any] = {
    "dataset": {"path": "x", "max_prompt_tokens": 512},
    "dtype": "float32",
    "lora": {"r": 16},
    "sampling": {"prompts_per_step": 4, "n": 4, "max_new_tokens": 96, "groups_per_request": 4},
    "distillation": {"k": 50},
    "batch": {"micro_batch_tokens": 1024},
}


@pytest.mark.parametrize(("dtype", "measured"), [("bfloat16", 0.345), ("float32", 0.477)])
def test_a_token_of_a_real_student_on_a_cpu(dtype: str, measured: float) -> None:
    """Qwen2.5-0.5B, 16 rows, one core of a Zen 4 (99 and 213 GFLOP/s, copies at 28 GB/s), seconds of CPU time."""
    core = Device("cpu", 1 << 34, 99e9, 28.4e9, 213e9)
    assert cpu_token_seconds(QWEN_0_5B, core, 16, dtype) == pytest.approx(measured, rel=0.4)


@pytest.mark.parametrize(
    ("response", "collecting", "training", "whole"),
    [(50, 62.8, 43.9, 117.7), (51, 80.9, 29.1, 115.7), (83, 92.4, 44.6, 143.4)],
)
def test_a_real_run_on_a_cpu(response: int, collecting: float, training: float, whole: float) -> None:
    """The three steps of benchmarks/smoke/RESULTS.md, whose rollouts were scored while others were sampled."""
    machine = Device("cpu", 23 << 30, 198e9, 28.4e9, 426e9)
    found = step_seconds(
        settings(**SMOKE), QWEN_0_5B, QWEN_1_5B_SHAPE, machine, mean_response=response, mean_prompt=87,
        tensor_parallel=1, samplers=1, sampler_engine="transformers", sampler_dtype="bfloat16", on_gpu=False,
    )  # fmt: skip
    assert found["sample"] + found["score"] == pytest.approx(collecting, rel=0.25)
    assert found["train"] == pytest.approx(training, rel=0.35)
    assert sum(found.values()) == pytest.approx(whole, rel=0.15)


def test_memory_of_a_real_trainer_on_a_cpu() -> None:
    """5.8 GiB at the peak of a micro-batch of 1,022 tokens that keeps nothing it freed; 2.5 before, 2.7 after it."""
    need = trainer_need(settings(**SMOKE), QWEN_0_5B, on_gpu=False)
    lasting = need.states / (1 << 30)
    assert lasting == pytest.approx(2.6, rel=0.1)
    assert 5.8 <= need.total / (1 << 30) <= 1.3 * 5.8


def test_a_batch_waits_for_its_longest_response() -> None:
    assert longest_of(1, 40, 512) == 40
    assert longest_of(2, 40, 512) == 60
    assert longest_of(16, 200, 512) == 512


def test_devices() -> None:
    assert find_device("h200", 0.0)[0].memory > find_device("h100", 0.0)[0].memory
    assert find_device("h100", 40.0) == (DEVICES["h100"].__class__("h100", 40 << 30, 989e12, 3350e9), True)
    assert find_device("cpu", 0.0)[1] is False
    with pytest.raises(ConfigError, match="did you mean 'h100'"):
        find_device("h10", 0.0)


def test_a_step_of_few_rollouts_does_not_fill_the_micro_batch(models: list[str]) -> None:
    from rgopd.cli.sections import override

    def tokens_need(*changes: str) -> int:
        small = ["train.sampling.prompts_per_step=2", "train.sampling.n=2", "train.nproc=2", "up.gpus={}"]
        sections = override(read_files([PAPER]), [*models, *small, *changes])
        plan = Planner(sections, *find_device("h100", 0.0)[:1], on_gpu=True).plan()
        return next(need.total for need in plan.loads[0] if need.process.startswith("trainer"))

    two_rollouts = 2 * (1024 + 1024)  # what each of the two ranks gets
    exact = tokens_need(f"train.batch.micro_batch_tokens={two_rollouts}")
    assert tokens_need("train.batch.micro_batch_tokens=65536") == exact
    assert tokens_need("train.batch.micro_batch_tokens=65536", "train.batch.packing=false") > exact
    assert tokens_need("train.batch.micro_batch_tokens=2048") < exact
    assert tokens_need("train.batch.micro_batch_tokens=65536", "train.batch.micro_batch_rollouts=1") < exact


def test_thesteps_of_a_run_respect_the_limit_of_its_dataset(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n" * 100)
    sampling = {"prompts_per_step": 8}
    assert steps_of(settings(dataset={"path": path}, sampling=sampling, epochs=2)) == 25
    assert steps_of(settings(dataset={"path": path, "limit": 40}, sampling=sampling, epochs=2)) == 10
    assert steps_of(settings(dataset={"path": path, "limit": 400}, sampling=sampling, epochs=2)) == 25
