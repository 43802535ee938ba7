"""Likely mistakes by their kind, each told in one line before anything starts. See decision 145."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rgopd.common.errors import ConfigError, RgopdError
from rgopd.common.settings import Settings, parse_overrides
from rgopd.common.weight_files import check_weights
from rgopd.common.yaml_lines import load_yaml
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.bad_row import BadRow
from rgopd.trainer.prompts.config import DatasetPart
from rgopd.trainer.prompts.maker import messages_of
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows
from rgopd.verifier.config import VerifierConfig

YAML: dict[str, tuple[bytes, str]] = {
    "an anchor that holds itself": (b"a: &x\n  b: *x\n", "an anchor holds itself"),
    "too deep": (b"a: " + b"[" * 3000 + b"]" * 3000, "nests too deeply"),
    "a number as key": (b"a: 1\n3: {b: 1}\n", "line 2: a key must be text, not '3'"),
    "no key": (b"~: 1\n", "a key must be text"),
    "a word that YAML takes for a truth": (b"a: {on: 1}\n", "a key must be text, not 'on'"),
    "a list as key": (b"? [a, b]\n: 1\n", "a key must be text, not a list or mapping"),
    "NUL": (b"a: 1\x00\n", "is not YAML"),
    "a bell": (b"a: 1\x07\n", "is not YAML"),
    "no such day": (b"a: 2026-13-45\n", "put quotes around what is text"),
    "a number of 5000 digits": (b"a: " + b"9" * 5000, "put quotes around what is text"),
    "latin 1": ("a: 1\nb: ä\n".encode("latin1"), "line 2 is no UTF-8 text (byte 0xe4): save it as UTF-8"),
    "an object of Python's": (b"a: !!python/object:os.system 1\n", "is not YAML"),
    "a key twice": (b"a: {b: 1, b: 2}\n", "a.b is given on line 1 and on line 1; keep one"),
    "two documents": (b"a: 1\n---\na: 2\n", "is not YAML"),
}


@pytest.mark.parametrize("case", YAML)
def test_files_that_are_no_settings(tmp_path: Path, case: str) -> None:
    written, told = YAML[case]
    path = tmp_path / "c.yaml"
    path.write_bytes(written)
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert told in str(error.value)
    assert str(error.value).count(str(path)) == 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("written", ["a=2026-13-45", "a=" + "9" * 5000, "a=" + "[" * 3000, "a={b: 1", "a=\x07"])
def test_values_that_are_none(written: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([written])


TRAIN: dict[str, tuple[dict[str, Any], str]] = {
    "another case": ({"Steps": 3}, "unknown key 'Steps'; did you mean 'steps'?"),
    "capitals": ({"STEPS": 3}, "unknown key 'STEPS'; did you mean 'steps'?"),
    "a dash": ({"output-dir": "x"}, "did you mean 'output_dir'?"),
    "TRL's word": ({"learning_rate": 1e-6, "steps": 1}, "unknown key 'learning_rate'"),
    "peft's word": ({"lora": {"rank": 8}}, "unknown key 'lora.rank'; did you mean 'r'?"),
    "TRL's word for n": ({"sampling": {"num_generations": 8}}, "did you mean 'n'?"),
    "minutes": ({"fault": {"step_timeout_s": "10m"}}, "write a plain number"),
    "thousands": ({"batch": {"micro_batch_tokens": "16k"}}, "write a plain number"),
    "percent": ({"optim": {"min_lr_ratio": "10%"}}, "a share is written as 0.1"),
    "a number as name": ({"run_id": 12}, "put quotes around it"),
    "a decay over 1": ({"optim": {"betas": [0.9, 1.5]}}, "optim.betas.1: Input should be less than 1"),
    "a negative decay": ({"optim": {"betas": [-0.1, 0.9]}}, "optim.betas.0: Input should be greater than"),
    "a huge seed": ({"seed": 10**26}, "seed: Input should be less than"),
    "groups of one": ({"sampling": {"n": 1}}, "sampling.n=1: an advantage compares"),
    "groups of one without a teacher": ({"objective": "grpo", "sampling": {"n": 1}}, "set sampling.n to 2 or more"),
    "no rate between": ({"dataset": {"path": "d", "selection": {"min_rate": 0.9, "max_rate": 0.1}}}, "no prompt is"),
    "weights of 0": (
        {"objective": {"name": "weighted_sum", "options": {"parts": [{"name": "rg_opd", "weight": 0}]}}},
        "every part has weight 0",
    ),
    "a misspelt column": ({"dataset": {"path": "d", "map": {"promt": "q"}}}, "did you mean 'prompt'?"),
    "NUL in a path": ({"output_dir": "a\0b"}, "output_dir holds a NUL character"),
    "NUL further down": ({"dataset": {"path": "a\0b"}}, "path holds a NUL character"),
}


@pytest.mark.parametrize("case", TRAIN)
def test_settings_that_cannot_be_meant(case: str) -> None:
    given, told = TRAIN[case]
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_mapping({"student": "x", "dataset": {"path": "d.jsonl"}, **given})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cls", "given", "key", "value"),
    [
        (VerifierConfig, {"workers": 2}, "workers", 2),
        (TrainConfig, {"student": "x", "dataset": "d", "sampling": {"n": 1}, "gate": "off"}, "gate", "off"),
        (TrainConfig, {"student": "x", "dataset": {"path": "d", "map": {"prompt": "q"}}}, "student", "x"),
    ],
)
def test_what_is_meant_is_taken(cls: type[Settings], given: dict[str, Any], key: str, value: Any) -> None:
    assert getattr(cls.from_mapping(given), key) == value


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("\ud800", "half of a surrogate pair"),
        ([{"role": "asistant", "content": "a"}], "did you mean 'assistant'?"),
        ([{"role": "x", "content": "a"}], "known: system, user"),
    ],
)
def test_prompts_that_are_none(prompt: Any, told: str) -> None:
    with pytest.raises(BadRow) as error:
        messages_of(prompt, "")
    assert told in str(error.value)


def test_a_split_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "1+1=", "kind": "math", "reference": "2"}\n')

    def read(**given: Any) -> int:
        return len(list(dataset_rows(DatasetPart(path=path, **given), Problems("d"))))

    assert read(split="train") == read(split="[:1]") == 1
    with pytest.raises(ConfigError, match="one file, without splits"):
        read(split="tset")
    with pytest.raises(ConfigError, match="layout 'gsm8k' takes none of its rows"):
        read(layout="gsm8k")


Break = Callable[[Path], Any]


def _index(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)


WEIGHTS: dict[str, tuple[Break, str]] = {
    "none": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is cut off or no safetensors file"),
    "another format": (lambda f: (f / "model.safetensors").write_bytes(b"PK" * 400), "no safetensors file"),
    "a pointer": (
        lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "run `git lfs pull`",
    ),
    "a shard is missing": (lambda f: _index(f, json.dumps({"weight_map": {"a": "two.safetensors"}})), "is missing"),
    "a broken index": (lambda f: _index(f, "[]"), "is no index of weights"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_not_whole(tmp_path: Path, student_folder: Path, case: str) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((student_folder / file).read_bytes())
    check_weights("student", str(tmp_path))
    damage, told = WEIGHTS[case]
    damage(tmp_path)
    with pytest.raises(RgopdError) as error:
        check_weights("student", str(tmp_path))
    assert told in str(error.value)


def test_weights_cut_off(tmp_path: Path, student_folder: Path) -> None:
    whole = (student_folder / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=f"is cut off: {len(whole) - 1} bytes of {len(whole)}"):
        check_weights("student", str(tmp_path))
