from __future__ import annotations

import json
import logging
import threading

from rgopd.common.telemetry import JsonFormatter, log_context


def line(message: str = "hello %s", **extra: object) -> dict[str, object]:
    record = logging.LogRecord("rgopd.x", logging.INFO, __file__, 1, message, ("you",), None)
    vars(record).update(extra)
    return dict(json.loads(JsonFormatter("teacher").format(record)))


def test_a_line_is_json_with_service_level_and_extras() -> None:
    parsed = line(rollout="r1")
    assert parsed["msg"] == "hello you"
    assert (parsed["service"], parsed["level"], parsed["rollout"]) == ("teacher", "info", "r1")


def test_the_context_is_added_nested_and_taken_away() -> None:
    with log_context(step=3):
        with log_context(rollout_id="r"):
            assert (line()["step"], line()["rollout_id"]) == (3, "r")
        assert "rollout_id" not in line()
    assert "step" not in line()


def test_the_context_does_not_leak_into_other_threads() -> None:
    seen: list[dict[str, object]] = []
    with log_context(step=1):
        thread = threading.Thread(target=lambda: seen.append(line()))
        thread.start()
        thread.join()
    assert "step" not in seen[0]


def test_what_json_cannot_hold_is_shown_as_text() -> None:
    assert line(path=threading)["path"].startswith("<module")  # type: ignore[attr-defined]
