"""Status, events, warnings and kept rollouts of a run: files that are whole, bounded and never in the loop's way."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.common.run_files import Lines, Vocabulary, kept_steps, read_status
from rgopd.common.streams import Streams
from rgopd.common.token_bytes import vocabulary_of
from rgopd.trainer.records.keeper import Keeper
from rgopd.trainer.records.live import Live
from rgopd.trainer.records.metrics import EVENTS, RECENT, ROWS, RunState
from rgopd.trainer.records.watch import KeepConfig


def step_row(step: int, **changed: Any) -> dict[str, Any]:
    return {"event": "step", "step": step, "loss": 1.0, "kept_fraction": 0.5, "grad_norm": 1.0, **changed}


def events(folder: Path) -> list[dict[str, Any]]:
    return Lines(folder / "events.jsonl").read().rows


def until(check: Any) -> None:
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_life_from_loading_to_its_end(tmp_path: Path) -> None:
    live = Live(tmp_path, "r", 2)
    status = read_status(tmp_path)
    assert status is not None
    assert (status["phase"], status["ranks"]) == ("loading", 2)
    live.phase("collecting", step=0, steps=4)
    live.stages(sampling=(3, 8), verifying=(1, 8))
    until(lambda: (read_status(tmp_path) or {})["stages"].get("sampling") == {"done": 3, "of": 8})
    live.phase("training")
    live.timing({"step": 0, "seconds": 2.0, "tokens_per_s": 10.0})
    live.row(step_row(0))
    live.end("finished", "all done")
    live.end("failed", "not any more")
    status = read_status(tmp_path)
    assert status is not None
    assert (status["phase"], status["stages"], status["eta_s"]) == ("finished", {}, None)
    assert (status["seconds"], status["metrics"]["loss"]) == (2.0, 1.0)
    assert status["rss_bytes"] > 1 << 20
    assert [(e["kind"], e.get("phase")) for e in events(tmp_path)] == [("phase", "loading"), ("finished", None)]


def test_a_warning_is_told_once_until_it_is_over(tmp_path: Path) -> None:
    live = Live(tmp_path, "r")
    for step in range(4):
        live.row(step_row(step, skipped=float(step in (1, 2)), kept_tokens=0.0))
    live.end("finished", "")
    told = [(e["kind"], e["step"]) for e in events(tmp_path) if e["kind"] in ("warning", "cleared")]
    assert told == [("warning", 1), ("cleared", 3)]
    (warning,) = [e for e in events(tmp_path) if e["kind"] == "warning"]
    assert warning["warning"] == "skipped"
    assert warning["do"]


def test_the_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    live = Live(None)
    live.phase("training")
    live.row(step_row(0))
    live.event("started", "x")
    live.end("finished", "")
    assert list(tmp_path.iterdir()) == []


def test_redis_is_told_and_bounded(tmp_path: Path, streams: Streams) -> None:
    state = RunState(streams)
    live = Live(tmp_path, "r")
    live.hear = state.hear
    live.event("started", "x")
    live.end("finished", "y")
    prefix, redis = f"rgopd:{{{streams.run_id}}}", streams.redis
    assert b'"finished"' in redis.get(f"{prefix}:status")
    assert redis.llen(f"{prefix}:events") == 3
    state.restart_rows([step_row(n) for n in range(ROWS + 5)])
    state.add_row(step_row(ROWS + 5))
    for _ in range(EVENTS // 16 + 1):
        state._push("events", [{"n": n} for n in range(16)], EVENTS)
        state.add_recent([{"n": n} for n in range(16)])
    assert redis.llen(f"{prefix}:rows") == ROWS
    assert f'"step": {ROWS + 5}'.encode() in redis.lindex(f"{prefix}:rows", -1)
    assert redis.llen(f"{prefix}:events") == EVENTS
    assert redis.llen(f"{prefix}:recent") == RECENT
    for name in ("rows", "events", "recent", "status"):
        assert 0 < redis.ttl(f"{prefix}:{name}") <= streams.stream_ttl_s


def keeper(folder: Path, **keep: Any) -> Keeper:
    return Keeper(folder, 0, 1, keep.pop("start", 0), KeepConfig(**keep), lambda: Vocabulary([b"a", b"b"]))


def test_kept_steps_are_bounded_and_made_again(tmp_path: Path) -> None:
    first = keeper(tmp_path, max_mb=1, newest=2)
    text = "".join(chr(33 + (n * n * 31 + n) % 90) for n in range(200_000))  # hardly compressible
    for step in range(24):
        rows = [{"kind": "step", "format": 1, "step": step, "text": text[step:] + str(step)}]
        first.submit(step, lambda rows=rows: rows)  # type: ignore[misc]
        until(lambda: first._jobs.empty())
    first.close()
    total = sum(p.stat().st_size for p in (tmp_path / "rollouts").iterdir())
    assert total <= (1 << 20) * 1.01
    assert kept_steps(tmp_path)[-1] == 23
    assert Vocabulary.read(tmp_path).tokens == [b"a", b"b"]
    keeper(tmp_path, start=20).close()  # a resumed life makes steps from 20 on again
    assert kept_steps(tmp_path)[-1] < 20


def test_a_slow_disk_skips_steps_and_never_waits(tmp_path: Path) -> None:
    gate = threading.Event()
    slow = keeper(tmp_path)

    def rows(step: int) -> list[dict[str, Any]]:
        assert gate.wait(120)
        return [{"kind": "step", "format": 1, "step": step}]

    started = time.monotonic()
    for step in range(20):
        slow.submit(step, lambda step=step: rows(step))  # type: ignore[misc]
    assert time.monotonic() - started < 60, "one alone that waited would take 120 s"
    gate.set()
    slow.close()
    assert slow.skipped >= 17
    assert len(kept_steps(tmp_path)) == 20 - slow.skipped


def test_a_step_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    kept.submit(0, lambda: [{"not json": object()}])
    until(lambda: kept._jobs.empty())
    kept.submit(1, lambda: [{"kind": "step", "format": 1, "step": 1}])
    kept.close()
    assert kept_steps(tmp_path) == [1]


def test_nothing_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    none = keeper(tmp_path, rollouts=0)
    none.submit(0, lambda: [{"kind": "step", "format": 1, "step": 0}])
    none.close()
    assert list(tmp_path.iterdir()) == []


def test_texts_of_the_demos_tokenizer(student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    vocabulary = vocabulary_of(tokenizer)
    text = "def f(x):\n    return x ** 2 % 7 <script>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(vocabulary.pieces(ids)) == text
    assert vocabulary.label(tokenizer.eos_token_id) == "<|end|>"
    assert tokenizer.eos_token_id in vocabulary.special


def test_texts_of_tokenizers_that_cut_characters() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    names = ["<unk>", "▁", "a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    pieces.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for core in (byte_level, pieces):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
        ids = tokenizer("a b ✓👩‍🔬", add_special_tokens=False)["input_ids"]
        assert "".join(vocabulary_of(tokenizer).pieces(ids)) == "a b ✓👩‍🔬"


def test_its_progress_is_rollouts_while_it_waits_and_work_else(tmp_path: Path) -> None:
    live = Live(tmp_path, "r", patience_s=7200.0)
    live.phase("collecting", step=3)
    live.stages(generate=(1, 8))
    time.sleep(1.2)
    first = read_status(tmp_path)
    time.sleep(1.0)
    second = read_status(tmp_path)
    assert first
    assert second
    assert second["moved"] == first["moved"], "nothing got further, whatever the clock says"
    assert second["allowed_s"] == 7500
    live.stages(generate=(2, 8))
    time.sleep(1.2)
    third = read_status(tmp_path)
    assert third
    assert third["moved"] > second["moved"]
    live.phase("training")
    time.sleep(1.2)
    training = read_status(tmp_path)
    assert training
    assert training["allowed_s"] < 7200
    live.end("finished", "done")
