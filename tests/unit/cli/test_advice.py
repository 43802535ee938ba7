"""`plan`'s advice: what it tries before it gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.advice import advise, fitting, knobs
from rgopd.cli.plan import Planner
from rgopd.trainer.run.estimate import ModelShape
from rgopd.trainer.run.seconds import Device

BILLION = ModelShape(
    parameters=1_543_714_304, layers=28, hidden=1536, mlp=8960, attention=1536, kv=256, vocab=151_936,
    layer_parameters=46_797_824,
)  # fmt: skip


def planner(gib: float, *, on_gpu: bool, **train: Any) -> Planner:
    sections = {
        "teacher": {"model": "T", "dtype": "float32"},
        "sampler": {"student": "S", "engine": "transformers"},
        "train": {"student": "S", "dataset": {"path": "d"}, **train},
    }
    made = Planner(sections, Device("a device", int(gib * 2**30), 1e12, 1e11), on_gpu=on_gpu)
    made._shapes.update(S=BILLION, T=BILLION)
    return made


@pytest.mark.parametrize("on_gpu", [True, False])
def test_nothing_is_left_untried(on_gpu: bool) -> None:
    keys = {text.partition("=")[0] for text, _ in knobs(planner(80, on_gpu=on_gpu).plan())}
    needed = {"train.lora", "sampler.dtype", "teacher.dtype", "train.dtype", "train.distillation.k"}
    needed |= {"train.sampling.max_new_tokens", "train.gradient_checkpointing", "train.batch.micro_batch_tokens"}
    assert needed <= keys
    assert ("train.fsdp.cpu_offload" in keys) == on_gpu


def test_what_does_not_fit_anywhere_says_what_was_tried_and_what_lacks() -> None:
    tight = planner(0.5, on_gpu=False)
    first, second = advise(tight, tight.plan())
    assert first.startswith("a larger device, or a smaller model: no setting suffices, LoRA, bfloat16, offload, K and")
    assert "GiB" in first
    for knob in ("train.lora=16", "sampler.dtype=bfloat16", "train.sampling.max_new_tokens=128"):
        assert f"--set {knob}" in second


def test_lora_is_found_where_full_training_does_not_fit() -> None:
    """16 bytes a parameter do not fit beside the others; 4 and adapters do."""
    somewhat = planner(48, on_gpu=False, sampling={"max_new_tokens": 256}, batch={"micro_batch_tokens": 2048})
    plan = somewhat.plan()
    assert plan.overfull
    changes, used = fitting(somewhat, plan)
    assert not somewhat.plan(changes).overfull
    lean = somewhat.plan({"train": {"lora": {"r": 16}}})
    trainer = next(n for n in lean.loads[0] if n.process == "trainer")
    full = next(n for n in plan.loads[0] if n.process == "trainer")
    assert trainer.parts["Adam moments (float32 shard)"] < full.parts["Adam moments (float32 shard)"] / 50
    assert trainer.total < 0.6 * full.total
    assert used


def test_the_longest_answer_of_any_domain_counts_and_is_shortened() -> None:
    """The sampler's cache holds 1024 + 4096 tokens a rollout, whatever the other domains take."""
    long = {"max_new_tokens": 64, "domains": {"code": {"max_new_tokens": 4096}, "math": 0.5}}
    made = planner(80, on_gpu=False, sampling=long).plan()
    sampler = next(n for n in made.loads[0] if n.process == "sampler")
    assert "KV cache (64 rollouts x 5120)" in sampler.parts
    texts = [text for text, _ in knobs(made) if "max_new_tokens" in text]
    assert texts[0].startswith("train.sampling.domains.code.max_new_tokens=2048 --set ")
    change = [change for text, change in knobs(made) if "max_new_tokens" in text][-1]
    tried = planner(80, on_gpu=False, sampling=long).plan(change).train.sampling
    assert (tried.longest, tried.max_new_tokens, tried.temperature_of("math")) == (128, 64, 0.5)


def test_offload_moves_the_state_off_the_gpu() -> None:
    plans = [planner(80, on_gpu=True, fsdp={"cpu_offload": on}).plan() for on in (False, True)]
    states = [next(n for n in plan.loads[0] if n.process == "trainer").states for plan in plans]
    assert states[1] < states[0] / 5


def test_advice_is_short_and_gentlest_first(tmp_path: Path) -> None:
    somewhat = planner(60, on_gpu=False, sampling={"max_new_tokens": 1024})
    plan = somewhat.plan()
    if plan.overfull:
        lines = advise(somewhat, plan)
        keys = [line.partition("=")[0] for line in lines]
        assert len(lines) <= 6
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("gib", [8, 16])
def test_gpus_that_are_advised_are_free(gib: float) -> None:
    small = planner(gib, on_gpu=True)
    changes, _ = fitting(small, small.plan())
    assert not small.plan(changes).overfull
    named = [gpu for given in changes["up"]["gpus"].values() for gpu in str(given).split(",")]
    assert len(named) == len(set(named)), changes["up"]["gpus"]
