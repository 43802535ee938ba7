"""`rgopd rollouts`: filters, reasons, JSON, and responses that would drive a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.rollouts import Wanted, clean, run_rollouts
from rgopd.common.errors import ConfigError
from rgopd.common.run_files import Vocabulary
from rgopd.common.run_files.kept_files import step_path, write_step
from tests.unit.common.test_run_files import kept_rows

HOSTILE = "<script>\x1b[2J\x07‮ 👩‍🔬"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    for step in (3, 4):
        rows = kept_rows(step)
        rows[0] |= {"objective": "rg_opd", "rollouts": 8}
        failed = {
            "verdict": {
                "status": "failed",
                "reason": "2 of 3 tests passed",
                "extracted": None,
                "tests": [
                    {"status": "passed", "reason": "", "duration_ms": 1.0},
                    {"status": "failed", "reason": "expected 3, got 4", "duration_ms": 1.0},
                ],
                "duration_ms": 2.0,
            },
            "advantage": -0.7,
            "reward": 0.0,
            "response_text": HOSTILE,
        }
        rows[3] |= failed
        write_step(step_path(tmp_path, step), rows)
    Vocabulary([b"1 ", b"+ 1", b" = 2"]).write(tmp_path)
    return tmp_path


def shown(run: Path, capsys: pytest.CaptureFixture[str], step: int | None = 3, **options: Any) -> str:
    tokens, as_json = options.pop("tokens", False), options.pop("as_json", False)
    assert run_rollouts(run, step, Wanted(**options), as_json=as_json, tokens=tokens, limit=16) == 0
    return capsys.readouterr().out


def test_each_rollout_with_its_reason(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(run, capsys)
    assert "2 of 8 rollouts are kept, 2 shown; steps 3 to 4 are there" in out
    assert "reference 2" in out
    assert "g0-n000  passed  reward +1.000  A +0.700  3 tokens" in out
    assert "L_T - L_S = -2.000 - (-3.000) = +1.000" in out
    assert "1 + 1 = 2" in out  # joined from the tokens
    assert "verdict: 2 of 3 tests passed" in out
    assert "test 1: failed: expected 3, got 4" in out
    assert "dropped before the forward pass" in out


def test_nothing_drives_the_terminal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(run, capsys, verdict="failed")
    assert not {"\x1b", "\x07", "‮"} & set(out)
    assert "<script>" in out
    assert "👩‍🔬" in out
    assert clean("a\tb\nc\x7f") == "a\tb\nc␡"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"kept": True}, ["g0-n000"]),
        ({"dropped": True}, ["g0-n001"]),
        ({"verdict": "passed"}, ["g0-n000"]),
        ({"sign": "negative"}, ["g0-n001"]),
        ({"outcome": "prefiltered"}, ["g0-n001"]),
        ({"domain": "math"}, ["g0-n000", "g0-n001"]),
        ({"domain": "code"}, []),
        ({"text": "SCRIPT>2"}, ["g0-n000"]),
    ],
)
def test_filters(run: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], ids: list[str]) -> None:
    rows = [json.loads(row) for row in shown(run, capsys, as_json=True, **options).splitlines()]
    assert [row["rollout_id"] for row in rows] == ids


def test_json_holds_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads(shown(run, capsys, as_json=True, kept=True))
    assert row["pieces"] == ["1 ", "+ 1", " = 2"]
    assert row["explanation"].startswith("Kept, all 3 tokens. A success")
    assert row["tokens"]["support_ids"] == [[0, 1], [1, 2], [2, -1]]
    assert row["prompt_text"] == "1 + 1 = ?"


def test_a_line_a_token(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(run, capsys, kept=True, tokens=True)
    assert "student's likeliest, student|teacher" in out
    assert "+␣1 -1.00|-2.00" in out
    assert "tail -1.00|-1.00" in out


def test_the_newest_step_by_default(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(run, capsys, step=None).startswith("step 4")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"verdict": "good"}, "passed, failed, error"),
        ({"sign": "+"}, "positive"),
        ({"outcome": "x"}, "redrawn"),
        ({"kept": True, "dropped": True}, "leave one out"),
    ],
)
def test_wrong_words(run: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        run_rollouts(run, 3, Wanted(**options), as_json=False, tokens=False, limit=0)


def test_a_step_of_which_nothing_is_kept(run: Path) -> None:
    with pytest.raises(ConfigError, match="nearest is 4"):
        run_rollouts(run, 9, Wanted(), as_json=False, tokens=False, limit=0)
    with pytest.raises(ConfigError, match="not a folder"):
        run_rollouts(run / "none", 9, Wanted(), as_json=False, tokens=False, limit=0)
