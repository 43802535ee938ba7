"""From folders of cells to tables and curves. The cells are written by the evaluation's own code."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rgopd.cli.main import app
from rgopd.common.errors import ConfigError
from rgopd.evaluate import cells
from rgopd.evaluate.compare import Comparison, compare, parse_sources
from rgopd.evaluate.scores import Column
from rgopd.evaluate.suites import GSM8K, MATH, SCIQ, Pin

GSM, MATHS, LIKELY = Column("GSM8K"), Column("MATH"), Column("SciQ", "likelihood")


def write_cell(folder: Path, pin: Pin, length: int | None, seed: int, points: list[float]) -> None:
    samples = [
        {"task": pin.task, "doc_id": i, "doc_hash": f"h{i}", "points": p, "weight": 1.0} for i, p in enumerate(points)
    ]
    value = 100 * sum(points) / len(points)
    result = {"label": pin.label, "mode": pin.mode, "length": length, "seed": seed, "value": value}
    cells.write(folder, cells.Cell(pin, length, seed), result, samples)


def evaluation(folder: Path, name: str, right: dict[Pin, list[list[float]]], lengths: tuple[int, ...] = (64,)) -> Path:
    """By pin: the points of each seed."""
    cells.claim(folder, {"name": name})
    for pin, seeds in right.items():
        for length in lengths if pin.mode == "generate" else (None,):
            for seed, points in enumerate(seeds):
                write_cell(folder, pin, length, seed, points)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    flat = [0.0, 1.0] * 20
    better = [1.0] * 30 + [0.0] * 10
    student = evaluation(tmp_path / "s", "student", {GSM8K: [flat, flat[1:] + [0.0]], SCIQ: [flat]})
    method = evaluation(tmp_path / "m", "RG-OPD", {GSM8K: [better, better], SCIQ: [better]})
    teacher = evaluation(tmp_path / "t", "teacher", {GSM8K: [[1.0] * 40] * 2, SCIQ: [[1.0] * 40]})
    return [str(student), str(method), str(teacher)]


def test_table_with_delta_rank_best_and_intervals(three: list[str], tmp_path: Path) -> None:
    table, written = compare(Comparison(parse_sources(three), tmp_path / "out", teacher="teacher"))
    assert table is not None
    (block,) = table.blocks  # one length: likelihood joins it, as in Table 3
    assert block.columns == (GSM, LIKELY)
    assert block.baseline == "student"
    method, teacher = block.row("RG-OPD"), block.row("teacher")
    assert block.delta(method, GSM) == pytest.approx(25.0)
    assert block.average_rank(method) == 1.0
    assert block.average_rank(teacher) is None
    assert block.best(GSM) == {"RG-OPD"}
    test = table.tests[block.title, "RG-OPD", GSM]
    assert test.difference.low < 25.0 < test.difference.high
    assert {p.suffix for p in written} == {".md", ".tex", ".html", ".json"}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "**75.00** ± 0.00" in text
    assert "+25.00" in text
    loaded = json.loads((tmp_path / "out" / "table.json").read_text())
    assert loaded["blocks"][0]["rows"][1]["cells"][0]["seeds"] == [75.0, 75.0]


def test_two_lengths_make_two_blocks_and_likelihood_its_own(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "a", {GSM8K: [[1.0, 0.0]], SCIQ: [[1.0, 1.0]]}, lengths=(1024, 8096))
    b = evaluation(tmp_path / "b", "b", {GSM8K: [[1.0, 1.0]], SCIQ: [[0.0, 1.0]]}, lengths=(1024, 8096))
    table, _ = compare(Comparison(parse_sources([str(a), str(b)]), tmp_path / "out"))
    assert table is not None
    titles = [block.title for block in table.blocks]
    assert titles == ["Generation length 1024", "Generation length 8096", "Likelihood ranking"]
    assert [len(block.columns) for block in table.blocks] == [1, 1, 1]


def test_the_papers_rows_stand_beside_ours_and_are_not_ranked(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "mine", {GSM8K: [[1.0, 0.0]]}, lengths=(1024,))
    table, _ = compare(Comparison(parse_sources([str(a)]), tmp_path / "out", printed=True))
    assert table is not None
    block = table.blocks[0]
    assert block.row("RG-OPD, as printed").scores[GSM].mean == 66.69
    assert [row.name for row in block.ranked] == ["mine"]


def test_averages_leave_out_what_a_row_lacks_and_say_so(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "a", {GSM8K: [[1.0, 0.0]], MATH: [[1.0, 1.0]]})
    b = evaluation(tmp_path / "b", "b", {GSM8K: [[1.0, 1.0]]})
    table, _ = compare(Comparison(parse_sources([str(a), str(b)]), tmp_path / "out"))
    assert table is not None
    block = table.blocks[0]
    assert block.common == (GSM,)
    assert block.average(block.row("a")) == 50.0
    assert "MATH" in "".join(table.notes)
    assert "–" in (tmp_path / "out" / "table.md").read_text()


def test_latex_and_html_hold_hostile_names(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "x", {GSM8K: [[1.0, 0.0]]})
    name = "<b>50% & $x_1$ | {y}</b>"
    compare(Comparison(parse_sources([f"{name}={a}"]), tmp_path / "out"))
    page = (tmp_path / "out" / "table.html").read_text()
    assert "<b>50%" not in page
    assert "&lt;b&gt;50% &amp; $x_1$" in page
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert r"<b>50\% \& \$x\_1\$ | \{y\}</b>" in tex
    row = next(line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if "50%" in line)
    assert row.count("|") == row.count(r"\|") + 6


def step(number: int, kept: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": 0.5, "kept_fraction": kept, "response_length_mean": 20.0,
            "reward_mean": 0.5, "response_tokens": 100.0, "verdicts": {"passed": 1, "failed": 1, "error": 0},
            "kept_fraction_positive": kept, "kept_fraction_zero": kept, "kept_fraction_negative": kept}  # fmt: skip


def run_folder(folder: Path, kept: float, clock: bool = True) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step(i, kept)) + "\n" for i in range(8)))
    if clock:
        rows = [{"event": "step", "step": i, "collect_s": 1.0, "train_s": 2.0, "publish_s": 0.5} for i in range(8)]
        (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("axis", ["steps", "tokens", "seconds"])
def test_curves_of_two_runs_in_one_figure(tmp_path: Path, axis: Any) -> None:
    a, b = run_folder(tmp_path / "one", 0.9), run_folder(tmp_path / "two", 0.7)
    table, written = compare(Comparison(parse_sources([str(a), f"other={b}"]), tmp_path / "out", axis=axis))
    assert table is None
    png, svg = written
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ET.parse(svg).getroot().tag.endswith("svg")


def test_an_evaluated_run_gives_both(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 0.9)
    evaluation(run / "evals" / "quick", "student of a run", {GSM8K: [[1.0, 0.0]]})
    table, written = compare(Comparison(parse_sources([str(run)]), tmp_path / "out"))
    assert table is not None
    assert table.blocks[0].rows[0].name == "run"
    assert {p.name for p in written} >= {"curves.png", "table.html"}
    assert "data:image/png;base64," in (tmp_path / "out" / "table.html").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"baseline": "studnt"}, "did you mean 'student'?"),
        ({"teacher": "nobody at all"}, "no such row"),
        ({"reference": ["RG-OPB"]}, "did you mean 'RG-OPD'?"),
    ],
)
def test_unknown_rows_are_named(three: list[str], tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("?", r"\?")):
        compare(Comparison(parse_sources(three), tmp_path / "out", **change))


def test_what_is_neither_run_nor_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither an evaluation"):
        parse_sources([str(tmp_path)])
    with pytest.raises(ConfigError, match="at least one"):
        parse_sources([])


def test_equal_names_are_refused(three: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two rows are called student"):
        compare(Comparison(parse_sources([three[0], f"student={three[1]}"]), tmp_path / "out"))


def test_seconds_need_timings(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 0.9, clock=False)
    with pytest.raises(ConfigError, match="--x steps works"):
        compare(Comparison(parse_sources([str(run)]), tmp_path / "out", axis="seconds"))


def test_the_command(three: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["compare", *three, "--teacher", "teacher", "-o", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert "Generation length 64" in found.output
    assert (tmp_path / "out" / "table.tex").exists()


def test_a_torn_cell_is_not_counted(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", "a", {GSM8K: [[1.0, 0.0]]})
    torn = folder / "cells" / "gsm8k" / "64" / "seed-1.partial"
    torn.mkdir()
    (torn / "cell.json").write_text("{}")
    table, _ = compare(Comparison(parse_sources([str(folder)]), tmp_path / "out"))
    assert table is not None
    assert table.blocks[0].rows[0].scores[GSM].seeds == (50.0,)
