"""Readers of a run's folder: growing, cut back, torn, thinned out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rgopd.common.errors import ConfigError
from rgopd.common.run_files import (
    EventLog,
    Lines,
    RunFolder,
    StatusFile,
    Vocabulary,
    explain,
    kept_steps,
    read_status,
    read_step,
)
from rgopd.common.run_files.explain import explain_token
from rgopd.common.run_files.kept_files import pack, step_path, thin, write_step


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    reader = Lines(path)
    assert reader.read().rows == []
    path.write_text(lines({"step": 0}) + '{"step"')
    assert reader.read().rows == [{"step": 0}]
    with path.open("a") as file:
        file.write(": 1}\n")
    assert reader.read().rows == [{"step": 1}]
    assert reader.read() == reader.read()


def test_a_resume_cuts_back(tmp_path: Path) -> None:
    path, partial = tmp_path / "m.jsonl", tmp_path / "m.partial"
    path.write_text(lines({"step": 0}, {"step": 1}, {"step": 2}))
    reader = Lines(path)
    assert len(reader.read().rows) == 3
    partial.write_text(lines({"step": 0}))
    os.replace(partial, path)
    news = reader.read()
    assert (news.anew, news.rows) == (True, [{"step": 0}])
    with path.open("a") as file:
        file.write(lines({"step": 1}))
    assert (reader.read().anew, reader.read().rows) == (False, [])


def test_another_file_of_the_same_length_under_the_same_inode(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(lines({"step": 0}, {"step": 1}))
    reader = Lines(path)
    reader.read()
    path.write_text(lines({"step": 7}, {"step": 8}, {"step": 9}))  # truncated in place and written again
    news = reader.read()
    assert (news.anew, [row["step"] for row in news.rows]) == (True, [7, 8, 9])


def test_a_gone_file_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(lines({"step": 0}))
    reader = Lines(path)
    reader.read()
    path.unlink()
    assert reader.read().anew
    path.write_text(lines({"step": 3}))
    assert reader.read().rows == [{"step": 3}]


def test_lines_that_are_no_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 0}\n{"st\n[1]\n\xff\xfe\n\n{"step": 1}\n')
    reader = Lines(path)
    assert [row["step"] for row in reader.read().rows] == [0, 1]
    assert reader.bad == 3


@pytest.mark.parametrize("max_bytes", [1, 7, 20, 1000])
def test_in_pieces_of_any_size(tmp_path: Path, max_bytes: int) -> None:
    path = tmp_path / "m.jsonl"
    rows = [{"step": n, "text": "ä" * n} for n in range(30)]
    path.write_text(lines(*rows))
    reader, found = Lines(path), []
    while news := reader.read(max_bytes).rows:
        found += news
    assert found == rows


def test_status_is_replaced_whole(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    StatusFile(tmp_path).write({"phase": "loading"})
    status = read_status(tmp_path)
    assert status is not None
    assert (status["phase"], status["pid"]) == ("loading", os.getpid())
    assert status["age_s"] < 5
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


def test_events_of_several_writers_and_after_a_torn_line(tmp_path: Path) -> None:
    heard: list[Any] = []
    EventLog(tmp_path, "trainer", heard.append).add("started", "step 0", step=0)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "ki')  # a death while writing
    EventLog(tmp_path, "up").add("died", "trainer", process="trainer", code=-9)
    rows = Lines(tmp_path / "events.jsonl").read().rows
    assert [(r["source"], r["kind"]) for r in rows] == [("trainer", "started"), ("up", "died")]
    assert heard[0]["step"] == 0
    assert rows[1]["code"] == -9


def test_events_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgopd.common.run_files.events.MAX_BYTES", 2000)
    for number in range(100):
        EventLog(tmp_path, "up").add("restarted", "again", number=number)
    rows = Lines(tmp_path / "events.jsonl").read().rows
    assert (tmp_path / "events.jsonl").stat().st_size < 2200
    assert rows[-1]["number"] == 99


def test_pieces_join_to_the_text(tmp_path: Path) -> None:
    text = "a ✓ 👩‍🔬 עברית <script>"
    data = text.encode()
    tokens = [data[i : i + 2] for i in range(0, len(data), 2)]  # cuts characters
    Vocabulary(tokens, special=[1]).write(tmp_path)
    vocabulary = Vocabulary.read(tmp_path)
    ids = list(range(len(tokens)))
    assert "".join(vocabulary.pieces(ids)) == text
    assert len(vocabulary.pieces(ids)) == len(ids)
    assert vocabulary.label(1) == "<e2>" or vocabulary.label(1).startswith("<")
    assert (vocabulary.label(10_000), vocabulary.special) == ("#10000", {1})
    assert vocabulary.pieces([1])[0] == "�"
    assert Vocabulary.read(tmp_path / "none").pieces([3]) == ["#3"]


GATE = {
    "enabled": True,
    "granularity": "trajectory",
    "chunk_size": 64,
    "zero_advantage": "negative",
    "signal": "advantage",
    "delta": 0.0,
    "warmup_steps": 0,
    "min_kept_fraction": 0.0,
}


def kept_rows(step: int = 3, text: str = "1 + 1 = <script>2</script>") -> list[dict[str, Any]]:
    i4 = pack(np.arange(3), "i4")
    rollout = {
        "kind": "rollout",
        "group_id": "g0",
        "response_text": text,
        "response_ids": i4,
        "finish": "stop",
        "verdict": {"status": "passed", "reason": "equal", "extracted": "2", "tests": [], "duration_ms": 1.0},
        "reward": 1.0,
        "advantage": 0.7,
        "outcome": "trained",
        "reason": "",
        "policy_version": step,
    }
    tokens = {
        "kind": "tokens",
        "rank": 0,
        "l_teacher": -2.0,
        "l_student": -3.0,
        "kept_tokens": 3,
        "k": 2,
        **{name: pack(np.array([-1.0, -0.5, -1.5]), "f4") for name in ("student", "behaviour", "teacher", "loss")},
        "keep": pack(np.array([1, 1, 0]), "u1"),
        "support_ids": pack(np.array([[0, 1], [1, 2], [2, -1]]), "i4"),
        "support_student": pack(np.full((3, 2), -1.0), "f2"),
        "support_teacher": pack(np.full((3, 2), -2.0), "f2"),
        "tail_student": pack(np.array([-1.0, -np.inf, -2.0]), "f4"),
        "tail_teacher": pack(np.array([-1.0, -0.1, -2.0]), "f4"),
    }
    return [
        {"kind": "step", "format": 1, "step": step, "gate": GATE, "gate_open": False},
        {
            "kind": "group",
            "group_id": "g0",
            "prompt_id": "p",
            "prompt_text": "1 + 1 = ?",
            "prompt_ids": i4,
            "domain": "math",
            "teacher": "",
            "check": {"kind": "math", "reference": "2"},
            "policy_version": step,
            "redraw": 0,
        },
        {**rollout, "id": "g0-n000", "index": 0},
        {**rollout, "id": "g0-n001", "index": 1},
        {**tokens, "id": "g0-n000"},
        {"kind": "tokens", "id": "g0-n001", "rank": 0, "prefiltered": True},
    ]


def test_ranks_parts_are_joined(tmp_path: Path) -> None:
    rows = kept_rows()
    write_step(step_path(tmp_path, 3), rows[:4])
    write_step(step_path(tmp_path, 3, rank=1), [rows[0], *rows[4:]])
    step = read_step(tmp_path, 3)
    (group,) = step.groups
    first, second = group.rollouts
    assert (first.outcome, first.sign, first.kept_tokens) == ("trained", "positive", 3)
    assert first.tokens is not None
    assert first.tokens.gap == [0.0, 0.0, 0.0]
    assert first.tokens.support_ids[2] == [2, -1]
    assert (second.outcome, second.tokens) == ("prefiltered", None)
    text = json.dumps(first.to_json(), allow_nan=False)
    assert json.loads(text)["tokens"]["tail_student"] == [-1.0, None, -2.0]


def test_a_torn_part_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = step_path(tmp_path, 3)
    write_step(path, kept_rows())
    path.write_bytes(path.read_bytes()[:-60])
    assert read_step(tmp_path, 3).header["step"] == 3
    path.write_bytes(b"no gzip at all")
    with pytest.raises(ConfigError, match="damaged"):
        read_step(tmp_path, 3)


def test_what_is_not_kept_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no rollouts"):
        read_step(tmp_path, 0)
    for step in (0, 8):
        write_step(step_path(tmp_path, step), kept_rows(step))
    with pytest.raises(ConfigError, match="nearest is 8"):
        read_step(tmp_path, 6)


def test_thinning_keeps_the_newest_and_a_spread(tmp_path: Path) -> None:
    size = 0
    for step in range(64):
        size = write_step(step_path(tmp_path, step), kept_rows(step))
        write_step(step_path(tmp_path, step, rank=1), kept_rows(step))
        thin(tmp_path, newest=4, max_bytes=24 * size)
    left = kept_steps(tmp_path)
    assert left[-4:] == [60, 61, 62, 63]
    assert {0, 16, 32, 48} <= set(left)
    assert len(left) <= 12
    thin(tmp_path, newest=4, max_bytes=1)  # even then the newest stays
    assert kept_steps(tmp_path) == [63]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="run"):
            RunFolder(path)
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    (tmp_path / "run.json").write_text('{"instance": "x", "run_id": "r"}')
    folder = RunFolder(tmp_path)
    assert (folder.config(), folder.run_id, folder.status(), folder.kept_steps()) == ({"steps": 3}, "r", None, [])


def test_a_conversations_figures_lie_where_its_own_tokens_are(tmp_path: Path) -> None:
    rows = kept_rows()
    own = np.array([1, 0, 0, 1, 1])
    for row in rows:
        if row["kind"] == "rollout" and row["id"] == "g0-n000":
            row |= {"own": pack(own, "u1"), "response_ids": pack(np.arange(5), "i4"), "finish": "turns"}
    write_step(step_path(tmp_path, 3), rows)
    step = read_step(tmp_path, 3)
    talk, plain = (rollout for _, rollout in step.rollouts)
    assert (talk.own_tokens, talk.turns, plain.own_tokens, plain.turns) == (3, 2, 3, 1)
    assert talk.tokens is not None
    assert talk.tokens.keep == [True, False, False, True, False]
    assert talk.tokens.support_ids == [[0, 1], [-1, -1], [-1, -1], [1, 2], [2, -1]]
    shown = talk.to_json()["tokens"]
    assert shown["student"] == [-1.0, None, None, -0.5, -1.5]
    assert shown["gap"] == [0.0, None, None, 0.0, 0.0]
    assert explain(step, talk).kept == "all"
    assert "not trained on" in explain_token(step, talk, 1)
    assert "not trained on" not in explain_token(step, talk, 3)


def test_figures_that_are_cut_reach_to_the_last_own_token_that_has_some(tmp_path: Path) -> None:
    rows = kept_rows()
    for row in rows:
        if row["kind"] == "rollout":
            row |= {"own": pack(np.array([0, 1, 1, 0, 1, 1, 1]), "u1"), "response_ids": pack(np.arange(7), "i4")}
        if row["kind"] == "tokens":
            row["cut"] = True
    write_step(step_path(tmp_path, 3), rows)
    [(_, rollout), *_] = read_step(tmp_path, 3).rollouts
    assert rollout.tokens is not None
    assert rollout.tokens.keep == [False, True, True, False, False]
