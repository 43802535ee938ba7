"""Mixtures and streams: shares, and the same order whoever asks, in whatever order."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.prompts.order import BLOCK, mixed


@pytest.fixture(scope="session")
def tokenizer(student_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(student_folder)


def write(path: Path, prefix: str, count: int) -> Path:
    rows = [{"id": f"{prefix}{n}", "prompt": "1+1=", "kind": "math", "reference": "2"} for n in range(count)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def source(tokenizer: Any, given: Any) -> PromptSource:
    return PromptSource(DatasetConfig.model_validate(given), tokenizer)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.0), (0.7, 0.2, 0.1), (1.0, 1000.0)])
def test_shares_follow_the_weights(weights: tuple[float, ...]) -> None:
    for blocks in (1, 3, 50):
        taken = Counter(mixed(weights, 5, p)[0] for p in range(blocks * BLOCK))
        for number, weight in enumerate(weights):
            assert abs(taken[number] - blocks * BLOCK * weight / sum(weights)) <= 1
    drawn = [mixed(weights, 5, p) for p in range(10 * BLOCK)]
    for number in range(len(weights)):
        within = [w for d, w in drawn if d == number]
        assert within == list(range(len(within))), "each dataset is gone through without a gap"


def test_a_mixture_is_the_same_for_a_seed_from_any_position(tmp_path: Path, tokenizer: Any) -> None:
    a, b = write(tmp_path / "a.jsonl", "a", 7), write(tmp_path / "b.jsonl", "b", 30)
    given = {"path": str(a), "weight": 3, "mix": [{"path": str(b), "weight": 1}]}
    prompts = source(tokenizer, given)
    forward = [prompts.at(1, p).prompt_id for p in range(200)]
    again = source(tokenizer, given)
    assert [again.at(1, p).prompt_id for p in reversed(range(200))] == forward[::-1]
    assert forward != [prompts.at(2, p).prompt_id for p in range(200)]
    assert sum(name.startswith("a") for name in forward) == pytest.approx(150, abs=6)
    from_a = [name for name in forward if name.startswith("a")]
    assert sorted(from_a[:7]) == [f"a{n}" for n in range(7)], "an epoch of each dataset visits all of it"
    assert len(prompts) == 37


def test_a_list_of_paths_is_a_mixture(tmp_path: Path, tokenizer: Any) -> None:
    a, b = write(tmp_path / "a.jsonl", "a", 3), write(tmp_path / "b.jsonl", "b", 3)
    for word in ([str(a), str(b)], f"{a},{b}", [{"path": str(a)}, {"path": str(b)}]):
        config = DatasetConfig.model_validate(word)
        assert [part.path for part in config.parts] == [a, b]
    assert len(source(tokenizer, [str(a), str(b)])) == 6


def test_one_dataset_has_the_order_it_always_had(tmp_path: Path, tokenizer: Any) -> None:
    import numpy as np

    prompts = source(tokenizer, str(write(tmp_path / "a.jsonl", "a", 20)))
    order = np.random.default_rng([5, 1]).permutation(20)
    assert [prompts.at(5, 20 + i).prompt_id for i in range(20)] == [f"a{n}" for n in order]
    assert [p.prompt_id for p in prompts.of_step(5, 5, 4, 5)] == [f"a{n}" for n in order[:4]]


@pytest.mark.parametrize("size", [1, 7, 16, 40])
def test_a_stream_visits_each_row_once_an_epoch(tmp_path: Path, tokenizer: Any, size: int) -> None:
    given = {"path": str(write(tmp_path / "a.jsonl", "a", size)), "streaming": True, "shuffle_buffer": 8}
    prompts = source(tokenizer, given)
    drawn = [prompts.at(3, p).prompt_id for p in range(3 * size)]
    for epoch in range(3):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == sorted(f"a{n}" for n in range(size))
    resumed = source(tokenizer, given)  # and asked from the middle on, or back
    for position in (2 * size, size - 1, 0, 3 * size - 1):
        assert resumed.at(3, position).prompt_id == drawn[position]
    if size == 40:
        assert drawn[:40] != drawn[40:80]
        assert drawn[:8] != sorted(drawn[:8])


def test_a_stream_holds_two_windows(tmp_path: Path, tokenizer: Any) -> None:
    rows = write(tmp_path / "a.jsonl", "a", 4000)
    held = {}
    for streaming in (False, True):
        tracemalloc.start()
        prompts = source(tokenizer, {"path": str(rows), "streaming": streaming, "shuffle_buffer": 50})
        prompts.at(0, 3000)
        held[streaming] = tracemalloc.get_traced_memory()[0] - 0 * len(str(prompts.config))
        tracemalloc.stop()
        if streaming:
            assert len(prompts._stream._windows) <= 2  # type: ignore[union-attr]
    assert held[True] < held[False] / 2


def test_a_stream_says_what_it_cannot_do(tmp_path: Path, tokenizer: Any) -> None:
    path = str(write(tmp_path / "a.jsonl", "a", 3))
    prompts = source(tokenizer, {"path": path, "streaming": True})
    with pytest.raises(ConfigError, match="set steps"):
        len(prompts)
    with pytest.raises(ValueError, match="excludes mix and selection"):
        DatasetConfig.model_validate({"path": path, "streaming": True, "selection": "skip"})
    empty = write(tmp_path / "e.jsonl", "e", 0)
    with pytest.raises(ConfigError, match="no usable rows"):
        source(tokenizer, {"path": str(empty), "streaming": True})
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\n')
    with pytest.raises(ConfigError, match="row 0 lacks the column 'kind'"):
        source(tokenizer, {"path": str(bad), "streaming": True})
