"""benchmarks/gpu runs: every section with tiny shapes on a CPU, the table, the status, what a dead section costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import apart, roofline, run, table
from benchmarks.gpu.harness import Bench, Row, SkippedCase, by_kind
from benchmarks.gpu.shapes import MEDIUM, SMALL

SCRIPT = Path(run.__file__)


@pytest.fixture
def rows_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[str], dict[str, Row]]:
    def of(name: str) -> dict[str, Row]:
        run.section(name)(Bench(name, torch.device("cpu"), True, 60.0, str(tmp_path)))
        lines = [line[4:] for line in capsys.readouterr().out.splitlines() if line.startswith("ROW ")]
        return {row.case: row for row in (Row(**json.loads(line)) for line in lines)}

    return of


def test_the_head_in_every_mode(rows_of: Callable[[str], dict[str, Row]]) -> None:
    rows = rows_of("head")
    assert not [row for row in rows.values() if row.error]
    for case in ("floor: three bf16 products", "plain eager, full logits", "ours, one pass (default on policy)",
                 "ours, two passes", "ours, one pass, 70% active", "ours, two passes, 70% active"):  # fmt: skip
        assert rows[f"{case}, T=128"].value > 0
    assert "× floor of the 6" in rows["ours, two passes, 70% active, T=128"].relative
    assert all(f"{name}, T=64" in rows for name in ("TRL chunked log-probs", "Liger fused linear cross entropy"))


@pytest.mark.filterwarnings("ignore:.*")
def test_the_trainers_step_and_its_publication(rows_of: Callable[[str], dict[str, Row]]) -> None:
    rows = rows_of("step")
    assert not [row for row in rows.values() if row.error], rows
    for case in ("step tiny, no checkpointing", "step tiny, checkpointing", "publication tiny, bfloat16"):
        assert rows[case].value > 0
    assert rows["step tiny, no checkpointing"].relative.endswith("% MFU")
    assert rows["step tiny, no checkpointing: products"].launches > 0


@pytest.mark.parametrize("name", ["teacher", "sampler"])
def test_the_engines(rows_of: Callable[[str], dict[str, Row]], name: str) -> None:
    rows = rows_of(name)
    assert rows
    assert not [row for row in rows.values() if row.error]
    assert all(row.value > 0 and row.predicted > 0 for row in rows.values())


def test_without_a_gpu_it_says_so_in_a_line() -> None:
    if torch.cuda.is_available():
        return
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("no GPU")


def test_a_case_that_fails_or_comes_late_costs_its_own_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bench = Bench("head", torch.device("cpu"), True, 60.0, str(tmp_path))

    def fail(error: Exception) -> None:
        raise error

    bench.case("breaks", lambda: fail(torch.OutOfMemoryError("too much\nof it")))
    bench.case("missing", lambda: fail(SkippedCase("x is not installed")))
    bench.case("works", lambda: bench.add("works", bench.seconds_of(lambda: None), "s"))
    bench.seconds = -1.0
    bench.case("late", lambda: fail(AssertionError("is not run")))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ROW ")]
    rows = [Row(**json.loads(line[4:])) for line in lines]
    assert [(r.case, r.error) for r in rows] == [
        ("breaks", "OutOfMemoryError: too much"), ("missing", ""), ("works", ""),
        ("late", "not run: the section's time was up"),
    ]  # fmt: skip
    text = table.markdown(rows, {"card": "a card", "date": "today", "torch": "2"}, 1.0)
    assert text.startswith("**a card**, today; torch 2; 1 s")
    assert "**OutOfMemoryError: too much**" in text
    assert json.loads(table.compact(rows, {}, 1.0))["rows"][1] == {
        "section": "head", "case": "missing", "note": "x is not installed"
    }  # fmt: skip


SECTION = """
import json, os, sys, threading, time
loaded = threading.Event()
def wait():
    while not loaded.wait(0.2):
        print("loading", flush=True)
threading.Thread(target=wait, daemon=True).start()
from benchmarks.gpu.harness import Bench
import torch
loaded.set()
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
done = frozenset(open(options["--done"]).read().split())
bench = Bench("s", torch.device("cpu"), True, float(options["--left"]), "", done)
bench.case("floor", lambda: bench.add("floor", 1.0, "s"), always=True)
bench.case("good", lambda: bench.add("good", 1.0, "s"))
bench.case("crashes", lambda: os._exit(3))
bench.case("hangs", lambda: time.sleep(600))
bench.case("last", lambda: bench.add("last", 1.0, "s"))
"""


def test_a_case_that_crashes_or_hangs_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "STALL_S", 6.0)  # its imports are no part of it, however long they take
    seen: list[int] = []
    rows = apart.run_apart("s", [sys.executable, "-c", SECTION], 600.0, tmp_path, lambda found: seen.append(len(found)))
    assert [(row.case, row.error.partition(":")[0]) for row in rows] == [
        ("floor", ""), ("good", ""), ("crashes", "ended with status 3"), ("hangs", "killed"), ("last", ""),
    ]  # fmt: skip
    assert seen[0] < seen[-1] == len(rows), "told while it runs"
    [row] = apart.run_apart("s", [sys.executable, "-c", SECTION], -apart.GRACE_S, tmp_path)
    assert row.error == "killed after 0 s"


def test_the_table_is_there_when_the_run_is_ended(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--device",
        "cpu",
        "--tiny",
        "--only",
        "teacher,sampler",
        "--out",
        str(tmp_path),
    ]
    run_ = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (tmp_path / "table.md").exists():
        assert run_.poll() is None
        time.sleep(0.1)
    run_.terminate()
    assert run_.wait(300) == 143
    assert "tokens/s" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["rows"]


def test_predictions_are_of_the_hardware() -> None:
    """Three products of the issue's head took 7.61 ms on an H100; on paper they take 8.2."""
    floor = roofline.head_floor(roofline.H100, 4096, 151_936, 1536)
    assert floor == pytest.approx(7.61e-3, rel=0.15)
    ours = roofline.head_ours(roofline.H100, 4096, 151_936, 1536)
    assert floor < ours < 1.3 * floor < roofline.head_plain(roofline.H100, 4096, 151_936, 1536)
    assert (round(SMALL.parameters / 1e6), round(MEDIUM.parameters / 1e6)) == (494, 1544)
    assert roofline.optimizer_s(roofline.H100, SMALL.parameters) == pytest.approx(4.1e-3, rel=0.05)
    assert roofline.card_of("NVIDIA H100 80GB HBM3") is roofline.H100
    assert roofline.card_of("NVIDIA H200").tb_s == 4.8


def test_kernels_are_told_apart_by_their_names() -> None:
    names = {
        "nvjet_tst_256x128": "products",
        "flash_fwd_kernel": "attention",
        "multi_tensor_apply_kernel": "optimizer",
        "Memcpy DtoD": "copies",
        "ncclDevKernel_AllGather": "collectives",
        "triton_rms_norm": "elementwise",
    }
    for name, kind in names.items():
        assert by_kind({name: (1.0, 3)})[kind] == (1.0, 3)
