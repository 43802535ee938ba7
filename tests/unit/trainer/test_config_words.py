"""One word where a group of settings stands means what a person means by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.sections import lay_sections, read_sections, sectioned
from rgopd.common.errors import ConfigError
from rgopd.trainer.config import TrainConfig

NEEDED = ["student=S", "dataset=rows.jsonl"]


def load(*overrides: str, config: Path | None = None) -> TrainConfig:
    return TrainConfig.from_sources("train", config, [*NEEDED, *overrides])


def at(config: TrainConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("objective=rlad", "objective.name", "rlad"),
        ("objective=Reverse-KL", "objective.name", "reverse_kl"),
        ("gate=released", "gate", "released"),
        ("gate=Paper", "gate", "paper"),
        ("gate=off", "gate", "off"),
        ("gate=no", "gate", "off"),
        ("gate=none", "gate", "off"),
        ("gate=on", "gate", "auto"),
        ("lora=true", "lora.r", 16),
        ("lora=on", "lora.r", 16),
        ("lora=8", "lora.r", 8),
        ("lora=off", "lora", None),
        ("lora=none", "lora", None),
        ("lora.target_modules=q_proj,v_proj", "lora.target_modules", ["q_proj", "v_proj"]),
        ("lora.target_modules=all-linear", "lora.target_modules", "all-linear"),
        ("distillation=20", "distillation.k", 20),
        ("distillation.tail=renormalize", "distillation.tail", "renormalise"),
        ("optim=1e-5", "optim.lr", 1e-5),
        ("optim.betas=0.9,0.99", "optim.betas", (0.9, 0.99)),
        ("checkpoint=20", "checkpoint.every", 20),
        ("dataset=other.jsonl", "dataset.path", Path("other.jsonl")),
        ("eval=held.jsonl", "eval.dataset.path", Path("held.jsonl")),
        ("eval.dataset=held.jsonl", "eval.dataset.path", Path("held.jsonl")),
        ("eval=off", "eval.dataset", None),
        ("eval.dataset=none", "eval.dataset", None),
        ("eval.k=1", "eval.k", [1]),
        ("monitor=tensorboard", "monitor.backends", ["tensorboard"]),
        ("monitor=tensorboard,wandb", "monitor.backends", ["tensorboard", "wandb"]),
        ("monitor.backends=wandb", "monitor.backends", ["wandb"]),
        ("fsdp=offload", "fsdp.cpu_offload", True),
        ("dtype=bf16", "dtype", "bfloat16"),
        ("dtype=fp32", "dtype", "float32"),
        ("device=gpu", "device", "cuda"),
        ("score=after-verdict", "score", "after_verdict"),
        ("importance_clip=off", "importance_clip", None),
        ("policies_dir=null", "policies_dir", None),
    ],
)
def test_a_word_means_what_it_says(word: str, key: str, value: Any) -> None:
    extra = {"objective": ["gate=off"]}.get(key.partition(".")[0], []) if "rlad" in word else []
    assert at(load(word, *extra), key) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("objective=rlda", r"unknown objective 'rlda'; known: forward_kl, .*; did you mean 'rlad'\?"),
        ("objective=5", "known objectives: forward_kl, grpo"),
        ("gate=papre", r"unknown gate 'papre'; known: auto, paper, released, off.*did you mean 'paper'\?"),
        ("gate.dleta=1", r"unknown key 'gate\.dleta'; did you mean 'delta'\?"),
        ("gate={preset: relased}", "known: auto, paper, released, off"),
        ("lora={rank: 8}", "unknown key 'lora.rank'"),
        ("lora=big", r"lora\.r: Input should be a valid integer.*'big'"),
        ("sampling=8", "sampling: 8 is not a group of settings; its keys are prompts_per_step, n,"),
        ("optim.schedule=cosin", r"'cosine' or 'constant'.*did you mean 'cosine'\?"),
        ("monitor=wandbb", r"monitor\.backends\.0.*did you mean 'wandb'\?"),
        ("teacher.model=x", "this command takes the settings of train alone"),
    ],
)
def test_errors_list_what_is_known(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(word)


def test_a_mapping_over_a_word_changes_what_the_word_stood_for(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("gate: released\ndistillation: 20\nobjective: jsd\nlora: {r: 4, alpha: 8}\n")
    loaded = load("gate.delta=0.1", "distillation.tail=none", "objective.options.beta=0.3", "lora=true", config=file)
    gate = loaded.gate_config()
    assert (gate.granularity, gate.zero_advantage, gate.delta) == ("token", "mask", 0.1)
    assert (loaded.distillation.k, loaded.distillation.tail) == (20, "none")
    assert (loaded.objective.name, loaded.objective.options) == ("jsd", {"beta": 0.3})
    assert (at(loaded, "lora.r"), at(loaded, "lora.alpha")) == (4, 8.0)


def test_a_word_over_a_mapping(tmp_path: Path) -> None:
    """A name replaces all of it; a number or path changes its own key."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "gate: {preset: released, delta: 1}\nobjective: {name: jsd, options: {beta: 0.1}}\n"
        "distillation: {k: 5, tail: none}\ndataset: {path: a.jsonl, system_prompt: Think.}\n"
    )
    loaded = load("gate=paper", "objective=rg_opd", "distillation=9", "dataset=b.jsonl", config=file)
    assert loaded.gate == "paper"
    assert loaded.objective.options == {}
    assert (loaded.distillation.k, loaded.distillation.tail) == (9, "none")
    assert (str(loaded.dataset.path), loaded.dataset.system_prompt) == ("b.jsonl", "Think.")


def test_words_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RGOPD_OBJECTIVE", "reverse_kl")
    monkeypatch.setenv("RGOPD_LORA", "8")
    monkeypatch.setenv("RGOPD_GATE__DELTA", "0.5")
    monkeypatch.setenv("RGOPD_OPTIM", "{lr: 1.0e-4}")
    loaded = load("gate=released")
    assert loaded.objective.name == "reverse_kl"
    assert at(loaded, "lora.r") == 8
    assert loaded.gate == "released", "--set stands over the environment"
    assert loaded.optim.lr == 1e-4
    monkeypatch.setenv("RGOPD_OBJECTIVE", "revers_kl")
    with pytest.raises(ConfigError, match="did you mean 'reverse_kl'"):
        load()


def test_sections_are_found_by_the_key(tmp_path: Path) -> None:
    assert sectioned(["objective=rlad", "train.steps=1", "run_id=x"]) == [
        "train.objective=rlad",
        "train.steps=1",
        "common.run_id=x",
    ]
    assert sectioned(["student=S"]) == ["sampler.student=S", "train.student=S"]
    file = tmp_path / "c.yaml"
    file.write_text("train: {gate: released}\n")
    sections = read_sections([file], ["gate.delta=0.1", "samplers=2"])
    assert sections == {"train": {"gate": {"preset": "released", "delta": 0.1}}, "up": {"samplers": 2}}
    with pytest.raises(ConfigError, match=r"unknown section 'dtype'.*write --set sampler\.dtype=… or .*train\.dtype"):
        read_sections([file], ["dtype=bf16"])
    with pytest.raises(ConfigError, match=r"unknown section 'stesp'.*train\.steps"):
        read_sections([file], ["stesp=3"])


def test_laying_changes_neither_side() -> None:
    base = {"train": {"optim": {"lr": 1}}}
    lay_sections(base, {"train": {"optim": {"lr": 2}}})
    assert base == {"train": {"optim": {"lr": 1}}}
