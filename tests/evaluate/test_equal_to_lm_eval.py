"""Model and rows through lm-eval's own command line too: greedy bit for bit, sampled with the same seed the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rgopd.evaluate import cells
from rgopd.evaluate.cells import Cell
from rgopd.evaluate.harness import tasks_folder
from rgopd.evaluate.suites import GSM8K, IFEVAL, MBPP, SCIQ, Pin
from tests.evaluate.conftest import DATA, HERE

LENGTH, BATCH, LIMIT = 16, 3, 3
pytestmark = pytest.mark.timeout(3000)  # four processes, each with a 135M model on however few cores there are

GREEDY = "do_sample=False,temperature=0.0,repetition_penalty=1.0"
SAMPLED = "do_sample=True,temperature=0.6,top_p=1.0,top_k=0,repetition_penalty=1.0"
LOCAL = {
    "gsm8k": ("gsm8k/gsm8k.yaml", "openai/gsm8k/main", ("train", "test")),
    "mbpp_instruct": ("mbpp/mbpp_instruct.yaml", "google-research-datasets/mbpp/full", ("test",)),
    "ifeval": ("ifeval/ifeval.yaml", "google/IFEval", ("train",)),
    "sciq": ("sciq/sciq.yaml", "allenai/sciq", ("train", "validation", "test")),
}


def task_yaml(folder: Path) -> Path:
    """lm-eval's own way to other data: YAML that includes its task and names local files."""
    folder.mkdir()
    for task, (yaml, place, splits) in LOCAL.items():
        data_files = {split: str(DATA / place / f"{split}.jsonl") for split in splits}
        rows = {"include": str(tasks_folder() / yaml), "task": task, "dataset_path": "json", "dataset_name": None,
                "dataset_kwargs": {"data_files": data_files}}  # fmt: skip
        (folder / f"{task}.yaml").write_text(json.dumps(rows))
    return folder


def lm_eval(tmp: Path, gguf: Path, tasks: str, kwargs: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Samples by task of `python -m lm_eval run`."""
    tmp.mkdir()
    argv = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--log_samples",
        "--model_args", f"pretrained={gguf.parent},gguf_file={gguf.name},dtype=float32", "--tasks", tasks,
        "--include_path", str(task_yaml(tmp / "tasks")), "--apply_chat_template", "--batch_size", str(BATCH),
        "--gen_kwargs", f"{kwargs},max_gen_toks={LENGTH}", "--seed", str(seed), "--limit", str(LIMIT),
        "--output_path", str(tmp / "out"), "--confirm_run_unsafe_code",
    ]  # fmt: skip
    environment = {**os.environ, "HF_ALLOW_CODE_EVAL": "1"}
    done = subprocess.run(argv, cwd=HERE / "reference", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[dict[str, Any]]] = {}
    for path in (tmp / "out").rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.name.removeprefix("samples_").rpartition("_")[0]] = rows
    return found


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory, gguf: Path) -> tuple[Path, dict[str, list[dict[str, Any]]]]:
    """(our evaluation's folder, lm-eval's samples)."""
    from tests.evaluate.conftest import command

    tmp = tmp_path_factory.mktemp("greedy")
    done = command(
        "eval", gguf, "--suite", ",".join(LOCAL), "--data", DATA, "-o", tmp / "ours", "--temperature", 0, "--chat",
        "--lengths", LENGTH, "--batch-size", BATCH, "--limit", LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    return tmp / "ours", lm_eval(tmp / "theirs", gguf, ",".join(LOCAL), GREEDY, 0)


def in_filter(rows: list[dict[str, Any]], pin: Pin) -> dict[int, dict[str, Any]]:
    return {row["doc_id"]: row for row in rows if row["filter"] == pin.filter}


@pytest.mark.parametrize("pin", [GSM8K, MBPP, IFEVAL], ids=lambda pin: pin.task)
def test_greedy_generation_bit_for_bit(greedy: tuple[Path, dict[str, list[dict[str, Any]]]], pin: Pin) -> None:
    folder, theirs = greedy
    ours = cells.read_samples(folder, Cell(pin, LENGTH, 0))
    reference = in_filter(theirs[pin.task], pin)
    assert len(ours) == len(reference) == LIMIT
    for sample in ours:
        row = reference[sample["doc_id"]]
        assert sample["prompt"] == row["arguments"]["gen_args_0"]["arg_0"]
        assert sample["response"] == row["resps"][0][0]
        assert sample["filtered"][pin.filter] == row["filtered_resps"][0]
        assert sample["metrics"][pin.filter][pin.metric] == row[pin.metric]
    assert len({sample["response"] for sample in ours}) > 1


def test_likelihood_bit_for_bit(greedy: tuple[Path, dict[str, list[dict[str, Any]]]]) -> None:
    folder, theirs = greedy
    ours = cells.read_samples(folder, Cell(SCIQ, None, 0))
    reference = in_filter(theirs["sciq"], SCIQ)
    assert len(ours) == LIMIT
    for sample in ours:
        row = reference[sample["doc_id"]]
        assert [value for value, _ in sample["loglikelihoods"]] == [float(r[0][0]) for r in row["resps"]]
        assert sample["metrics"]["none"]["acc"] == row["acc"]
