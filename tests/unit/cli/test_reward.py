"""Reward functions given from Python: what their file does alone, and those that cannot stand alone."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.reward import grader_source
from rgopd.common.errors import ConfigError
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Status

LIMIT = 3


def plain(response: str, limit: int) -> float:
    return float(len(response) < limit)


def grade(response: str) -> bool:
    return response == "yes"


def given(response: str) -> float:
    return 0.5


def inner(response: str, words: list[str]) -> bool:
    return any(re.search(word, response) for word in words) and [math.floor(x) for x in (1.5,)] == [1]


def annotated(response: str, more: dict[str, Any] | None = None, *, scale: float = 0.25) -> Iterator[int] | float:
    return scale if more is None else json.loads(json.dumps(more))["reward"]


def positional(response: str, /, limit: int) -> float:
    return float(limit)


WORKS: list[tuple[Callable[..., Any], dict[str, Any], Any]] = [
    (plain, {"limit": 9}, 1.0),
    (grade, {}, True),
    (given, {}, 0.5),
    (inner, {"words": ["y.s"]}, True),
    (annotated, {}, 0.25),
    (annotated, {"more": {"reward": 1}}, 1),
    (positional, {"limit": 1}, 1.0),
]


@pytest.mark.parametrize(("reward", "columns", "value"), WORKS, ids=[w[0].__name__ + str(len(w[1])) for w in WORKS])
def test_its_file_alone_does_the_same(reward: Callable[..., Any], columns: dict[str, Any], value: Any) -> None:
    source, names = grader_source(reward)
    alone: dict[str, Any] = {}
    exec(compile(source, "reward.py", "exec"), alone)
    assert alone["grade"]("yes", **columns) == value == reward("yes", **columns)
    assert {name for name, needed in names.items() if needed} <= set(columns)


class Judge:
    """Holds state that no sandbox has."""

    def __call__(self, response: str) -> float:
        return 1.0

    def judge(self, response: str) -> float:
        return 1.0


async def later(response: str) -> float:
    return 1.0


def many(response: str) -> Iterator[float]:
    yield 1.0


def outside(response: str) -> bool:
    return len(response) < LIMIT


def deeply(response: str) -> bool:
    return all(n < LIMIT for n in range(2))


def default(response: str, words: tuple[str, ...] = ("a",)) -> bool:
    return response in words


def nothing() -> float:
    return 1.0


def named(*, response: str) -> float:
    return 1.0


def before(response: str, limit: int, /) -> float:
    return 1.0


def closure() -> Callable[[str], bool]:
    word = "yes"

    def inside(response: str) -> bool:
        return response == word

    return inside


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        (lambda response: 1.0, "made with def"),
        (Judge(), "define it with def"),
        (Judge, "made with def"),
        (Judge().judge, "is a method"),
        (functools.partial(plain, limit=3), "define it with def"),
        (print, "define it with def"),
        ("len(response)", "define it with def"),
        (later, "not async and no generator"),
        (many, "not async and no generator"),
        (closure(), "uses word of the function around it"),
        (outside, "uses 'LIMIT' from outside"),
        (deeply, "uses 'LIMIT' from outside"),
        (default, "the default of words is no plain value"),
        (nothing, "needs a parameter for the response"),
        (named, "needs a parameter for the response"),
        (before, "put the / of before after the response"),
    ],
)
def test_what_cannot_stand_alone(reward: Any, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        grader_source(reward)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def of_nan(response: str) -> float:
    return math.nan


def of_none(response: str) -> None:
    return None


def of_text(response: str) -> str:
    return "good"


def of_two(response: str) -> float:
    return 2.0


def raising(response: str) -> float:
    raise ValueError("no such thing")


def slow(response: str) -> float:
    while True:
        pass


def leaving(response: str) -> float:
    raise SystemExit(0)


NO_REWARD: dict[Callable[..., Any], str] = {
    of_nan: "returned nan; return a bool, a number in [0, 1]",
    of_none: "returned None; return a bool, a number in [0, 1]",
    of_text: "returned 'good'; return a bool",
    of_two: "returned 2.0; return a bool",
    raising: "ValueError: no such thing",
    slow: "end within 1 s",
    leaving: "the grader failed",
}


def test_what_is_no_reward_is_an_error_that_says_so(tmp_path: Path) -> None:
    """In the real sandbox, beside one that works."""
    graders = {}
    for reward in (*NO_REWARD, inner):
        graders[reward.__name__] = tmp_path / f"{reward.__name__}.py"
        graders[reward.__name__].write_text(grader_source(reward)[0])
    engine, _ = build_engine(VerifierConfig(workers=1, math_workers=1, python_graders=graders))
    try:
        fields = {"args": {}, "limits": {"wall_s": 1}}
        items = [Item(r.__name__, "python", "yes", {"grader": r.__name__, **fields}) for r in NO_REWARD]
        right = Item("x", "python", "yes", {"grader": "inner", "args": {"words": ["y.s"]}})
        *verdicts, works = engine.check([*items, right])
    finally:
        engine.drain(30)
        engine.close()
    assert works.status is Status.passed
    for (reward, told), verdict in zip(NO_REWARD.items(), verdicts, strict=True):
        assert (verdict.status, verdict.reward) == (Status.error, None), reward
        assert told in verdict.reason, (reward, verdict.reason)
