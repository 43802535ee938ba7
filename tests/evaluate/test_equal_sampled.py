"""Sampled: the responses of lm-eval's own command line with the same seed. A file, and so a process, of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.evaluate import cells
from rgopd.evaluate.cells import Cell
from rgopd.evaluate.suites import GSM8K
from tests.evaluate.conftest import DATA, Command
from tests.evaluate.test_equal_to_lm_eval import BATCH, LENGTH, LIMIT, SAMPLED, in_filter, lm_eval

pytestmark = pytest.mark.timeout(3000)


def test_sampled_with_the_same_seed(gguf: Path, rgopd: Command, tmp_path: Path) -> None:
    done = rgopd(
        "eval", gguf, "--suite", "gsm8k", "--data", DATA, "-o", tmp_path / "ours", "--temperature", 0.6, "--seeds", 2,
        "--lengths", LENGTH, "--batch-size", BATCH, "--limit", LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = in_filter(lm_eval(tmp_path / "theirs", gguf, "gsm8k", SAMPLED, 1)["gsm8k"], GSM8K)
    seeds = [cells.read_samples(tmp_path / "ours", Cell(GSM8K, LENGTH, seed)) for seed in (0, 1)]
    assert [s["response"] for s in seeds[1]] == [theirs[s["doc_id"]]["resps"][0][0] for s in seeds[1]]
    assert [s["response"] for s in seeds[0]] != [s["response"] for s in seeds[1]]
