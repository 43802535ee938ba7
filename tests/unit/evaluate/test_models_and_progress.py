"""What is handed to lm-eval's model classes, memory that runs out, and the time that is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rgopd.common.errors import ConfigError
from rgopd.evaluate.models import Engine, ModelSpec, OutOfMemory, arguments, is_out_of_memory, resolve
from rgopd.evaluate.progress import Progress, span


def model(size: int) -> Any:
    """What the batch size hangs on in lm-eval's HFLM."""
    nothing = SimpleNamespace(batch_size_per_gpu=size, tokenizer=None)
    nothing.generate_until = nothing.loglikelihood = lambda requests, disable_tqdm=False: []
    return nothing


def test_the_batch_is_halved_until_it_fits_and_it_is_said() -> None:
    engine, said = Engine(model(16), "hf"), list[str]()

    def work() -> int:
        if engine.batch_size > 4:
            torch.empty(1 << 60, dtype=torch.uint8)  # the CPU allocator's own refusal
        return engine.batch_size

    assert engine.within_memory(work, said.append) == 4
    assert said == [
        "out of memory at batch size 16: going on with 8",
        "out of memory at batch size 8: going on with 4",
    ]


def test_at_a_batch_of_one_it_says_what_would_help() -> None:
    engine = Engine(model(2), "hf")
    with pytest.raises(OutOfMemory, match="at batch size 1: a shorter --lengths"):
        engine.within_memory(lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda _: None)


def test_other_errors_are_not_taken_for_memory() -> None:
    def work() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Engine(model(8), "hf").within_memory(work, lambda _: None)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


def test_generation_never_takes_a_models_own_defaults() -> None:
    sampled = Engine(model(1), "hf").generation(0.6, 1024, 2)
    assert sampled == {
        "max_gen_toks": 1024, "do_sample": True, "temperature": 0.6,
        "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert Engine(model(1), "vllm").generation(0.6, 1024, 2)["seed"] == 2
    assert "top_k" not in Engine(model(1), "server").generation(0.6, 64, 0)
    assert Engine(model(1), "hf").generation(0.0, 64, 0)["do_sample"] is False
    assert Engine(model(1), "hf").generation(None, None, 0) == {}  # a task's own settings stay


def test_arguments_of_each_backend(tmp_path: Path) -> None:
    name, given = arguments(ModelSpec("org/m", device="cpu", batch_size=3, arguments={"revision": "x"}))
    assert (name, given["batch_size"], given["revision"]) == ("hf", 3, "x")
    name, given = arguments(ModelSpec("org/m", "vllm", arguments={"tensor_parallel_size": 2}))
    assert (name, given["tensor_parallel_size"], given["batch_size"]) == ("vllm", 2, "auto")
    name, given = arguments(ModelSpec("m", "server", base_url="http://h:1/v1/"))
    assert (name, given["base_url"]) == ("local-chat-completions", "http://h:1/v1/chat/completions")
    name, given = arguments(ModelSpec("m", "server", base_url="http://h:1", tokenizer="org/m"))
    assert (name, given["base_url"]) == ("local-completions", "http://h:1/v1/completions")
    name, given = arguments(ModelSpec("/a/b.gguf", device="cpu"))
    assert (given["pretrained"], given["gguf_file"], given["dtype"]) == ("/a", "b.gguf", "float32")


def test_a_runs_folder_is_its_student(tmp_path: Path) -> None:
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="a run without 'student'"):
        resolve(str(tmp_path / "run"))
    (tmp_path / "run" / "student" / "config.json").touch()
    assert resolve(str(tmp_path / "run")) == (str(tmp_path / "run" / "student"), "run")
    with pytest.raises(ConfigError, match="does not exist"):
        resolve(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no such file"):
        resolve(str(tmp_path / "m.gguf"))


def test_time_left_weighs_what_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("rgopd.evaluate.progress.time.monotonic", lambda: clock.now)
    said: list[str] = []
    progress = Progress(100.0, said.append)
    progress.begin("GSM8K", 10, 20.0)
    assert progress.left() == ""  # no rate yet
    for _ in range(5):
        progress.add_partial("generate_until", None, "x")
    clock.now += 30  # 10 of 100 in 30 s
    assert progress.left() == "4 min"  # 270 s: rounded
    progress.add_partial("generate_until", None, "x")
    assert said == ["  GSM8K: 6/10, 4 min left in all"]
    assert progress.finish() == "2 min"


def test_spans() -> None:
    assert [span(s) for s in (4, 59.4, 61, 3900)] == ["4 s", "59 s", "1 min", "1 h 05 min"]
