"""`rgopd eval` on the demo's models: cells, resuming, scoring again, the second judge, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rgopd.cli.main import app
from rgopd.common.errors import ConfigError
from rgopd.evaluate import cells
from rgopd.evaluate.cells import Cell
from rgopd.evaluate.harness import Harness
from rgopd.evaluate.sandbox import CodeEval, code_eval_in_sandbox
from rgopd.evaluate.suites import DEMO, GSM8K, MBPP, SUITES
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.main import build_engine
from tests.evaluate.conftest import DATA, Command

SMALL = ("--limit", 8, "--seeds", 2, "--batch-size", 8, "--lengths", 48)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("samples.jsonl")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student: Path, demo_data: Path) -> Path:
    """An undisturbed evaluation."""
    from tests.evaluate.conftest import command

    folder = tmp_path_factory.mktemp("whole") / "eval"
    done = command("eval", student, "--suite", "demo", "--data", demo_data, "-o", folder, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "8/8 cells" in done.stdout
    assert "left" in done.stdout  # the time that is left
    return folder


def test_every_response_is_kept_with_both_verdicts(whole: Path) -> None:
    for pin in DEMO:
        for seed in (0, 1):
            samples = cells.read_samples(whole, Cell(pin, 48, seed))
            assert len(samples) == 8
            for sample in samples:
                assert sample["response"]
                assert sample["verdict"]["status"] in ("passed", "failed")
                assert sample["prompt"].endswith("<|assistant|>")
            result = cells.read(whole, Cell(pin, 48, seed))
            assert result["value"] == 100 * sum(s["points"] for s in samples) / 8
            assert result["value"] / 100 == result["lm_eval"][pin.task][f"{pin.metric},{pin.filter}"]
    summary = json.loads((whole / "summary.json").read_text())
    assert {row["benchmark"] for row in summary["scores"]} == {pin.label for pin in DEMO}


def test_killed_in_the_middle_it_goes_on_to_the_same_table(
    whole: Path, student: Path, demo_data: Path, rgopd: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "eval"
    words = ["eval", student, "--suite", "demo", "--data", demo_data, "-o", folder, *SMALL]
    child = subprocess.Popen(
        [sys.executable, "-m", "rgopd.cli.main", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # os.walk, since Path.rglob raises where a folder is renamed while it looks.
    while not any("cell.json" in names and "seed-" in at for at, _, names in os.walk(folder)):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(files_of(folder)) < 8
    done = rgopd(*words)
    assert done.returncode == 0, done.stderr
    assert "were done before" in done.stdout
    assert files_of(folder) == files_of(whole)
    for source, name in ((folder, "a"), (whole, "b")):
        assert CliRunner().invoke(app, ["compare", f"x={source}", "-o", str(tmp_path / name)]).exit_code == 0
    assert (tmp_path / "a" / "table.md").read_bytes() == (tmp_path / "b" / "table.md").read_bytes()


def test_scoring_again_without_sampling(
    whole: Path, student: Path, demo_data: Path, rgopd: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "eval"
    shutil.copytree(whole, folder)
    again = ("eval", student, "--suite", "demo", "--data", demo_data, "-o", folder, *SMALL, "--rescore")
    assert rgopd(*again).returncode == 0
    before, after = files_of(whole), files_of(folder)
    assert after == before
    cell = Cell(DEMO[0], 48, 0)
    samples = cells.read_samples(folder, cell)
    # lm-eval's filter reads the last box, and so does our grader; a box within an announced answer only ours
    samples[0]["response"] = f"The answer is {samples[0]['target']}."
    cells.write(folder, cell, cells.read(folder, cell), samples)
    done = rgopd(*again)
    assert done.returncode == 0, done.stderr
    changed = cells.read_samples(folder, cell)[0]
    assert changed["points"] == 0.0
    assert changed["verdict"]["status"] == "passed"
    assert changed["disagrees"]
    assert cells.read(folder, cell)["disagreements"] == 1
    assert "disagrees on 1" in done.stdout


def test_a_floor_is_an_exit_code(whole: Path, student: Path, demo_data: Path) -> None:
    words = [*map(str, ("eval", student, "--suite", "demo", "--data", demo_data, "-o", whole, *SMALL))]
    assert CliRunner().invoke(app, [*words, "--fail-under", "A math=0"]).exit_code == 0
    missed = CliRunner().invoke(app, [*words, "--fail-under", "A math=100.1"])
    assert missed.exit_code == 1
    assert "A math is below 100.1" in missed.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--suite", "gsm8kk"), "did you mean 'gsm8k'?"),
        (("--suite", "gsm8k", "--lengths", "4096", "--data", str(DATA)), "takes 128 tokens, prompt included"),
        (("--suite", "gsm8k", "--data", "nowhere"), "no such folder"),
        (("--suite", "demo", "--data", str(DATA)), "rgopd/demo/A-math/test.jsonl"),
        (("--suite", "gsm8k", "--lengths", "many"), "write numbers of tokens"),
        (("--suite", "gsm8k", "--fail-under", "GSM9K=3"), "did you mean 'GSM8K'?"),
        (("--suite", "gsm8k", "--backend", "vllm", "--data", str(DATA)), "vllm"),
        (("--suite", "gsm8k", "--backend", "server", "--data", str(DATA)), "needs --base-url"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else " ".join(value)[:40],
)
def test_bad_input_says_what_to_do(student: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    found = CliRunner().invoke(app, ["eval", str(student), "-o", str(tmp_path / "eval"), *words])
    assert isinstance(found.exception, ConfigError), found.output
    assert told in str(found.exception)


def test_an_error_is_one_line_and_exit_code_2(rgopd: Command) -> None:
    done = rgopd("eval", "--suite", "quick")
    assert done.returncode == 2
    assert done.stderr.startswith("rgopd: name a MODEL")
    assert "Traceback" not in done.stderr


def test_without_a_chat_template(student: Path, demo_data: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(student, plain)
    (plain / "chat_template.jinja").unlink()
    words = ["eval", str(plain), "--suite", "demo", "--data", str(demo_data), "--limit", "2", "--seeds", "1"]
    refused = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "a")])
    assert isinstance(refused.exception, ConfigError)
    assert "has no chat template" in str(refused.exception)
    assert "--no-chat" in str(refused.exception)
    plainly = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "b"), "--no-chat"])
    assert plainly.exit_code == 0, plainly.output


def test_another_evaluation_in_the_same_folder_is_refused(whole: Path, student: Path, demo_data: Path) -> None:
    words = ["eval", str(student), "--suite", "demo", "--data", str(demo_data), "-o", str(whole), "--limit", "9"]
    with pytest.raises(ConfigError, match="limit was 8, is 9"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_what_each_task_needs_is_listed() -> None:
    found = CliRunner().invoke(app, ["eval", "--suite", "paper-generative", "--list-data"])
    assert found.exit_code == 0, found.output
    for path in ("openai/gsm8k/main/test.jsonl", "EleutherAI/hendrycks_math/algebra/test.jsonl", "punkt_tab",
                 "TAUR-Lab/MuSR/murder_mysteries.jsonl", "google/IFEval/train.jsonl"):  # fmt: skip
        assert path in found.output


def test_every_pinned_task_is_in_lm_eval_with_that_metric_and_filter() -> None:
    harness = Harness()
    for suite in SUITES.values():
        for pin in suite.pins:
            leaves = harness.leaves(pin)
            assert leaves
            config = harness.config(pin, leaves[0])
            filters = [f["name"] for f in config.get("filter_list") or [{"name": "none"}]]
            assert pin.filter in filters, pin
            metrics = [str(m["metric"]).rpartition(".")[2] for m in config["metric_list"]]
            assert pin.metric in metrics, pin
            assert (config["output_type"] == "generate_until") == (pin.mode == "generate"), pin
    assert len(harness.leaves(SUITES["paper-likelihood"].pins[3])) == 24  # BBH of the leaderboard: 24 of 27


def test_code_runs_in_the_sandbox_without_the_unsafe_switch(tmp_path: Path) -> None:
    engine, _ = build_engine(VerifierConfig(workers=1, math_workers=1))
    metric = CodeEval(engine)
    marker = tmp_path / "escaped"
    try:
        with code_eval_in_sandbox(metric):
            tasks = Harness().load(MBPP, DATA)
        task = tasks["mbpp_instruct"]
        assert not getattr(task, "UNSAFE_CODE", False)
        doc = task.eval_docs[0]

        def score(program: str) -> Any:
            return task.process_results(doc, [[program]])["pass_at_1"]

        assert score("def add(a, b):\n    return a + b") == 1.0
        assert score("def add(a, b):\n    return a - b") == 0.0
        assert score("def add(a, b):\n    while True: pass") == 0.0
        assert score("import os\nos._exit(0)") == 0.0
        assert score("```python\ndef add(a, b):\n    return a + b\n```") == 0.0  # lm-eval hands over programs, no text
        assert score(f"open({str(marker)!r}, 'w').write('x')\ndef add(a, b):\n    return a + b") in (0.0, 1.0)
        assert not marker.exists()
    finally:
        engine.drain(10)
        engine.close()


def test_a_snapshot_of_a_hub_repository_is_read_as_it_is(tmp_path: Path) -> None:
    """Parquet shards in a folder of the configuration, as `hf download` leaves them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "gsm8k" / "main"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (DATA / "openai/gsm8k/main" / f"{split}.jsonl").read_text().splitlines()]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    task = Harness().load(GSM8K, tmp_path)["gsm8k"]
    assert len(task.eval_docs) == 6
