"""Nothing times out while it gets on, and what a deadline is grows with the tokens; a stuck stage ends the wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rgopd.common import wire
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import Unavailable
from rgopd.common.stage import stage_done
from rgopd.common.streams import GENERATE, ROLLOUT, SCORE, VERIFY, Streams
from rgopd.protos import rollout_pb2, teacher_pb2
from rgopd.sampler.publish import deadline_s
from rgopd.teacher.worker import _deadline_s as score_deadline_s
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.rollouts.join import Group, Join
from rgopd.trainer.rollouts.patience import longest_wait_s, patience_of, rows_of


def groups(count: int) -> list[Group]:
    return [Group(f"s000000p{i:04d}r00", rollout_pb2.Prompt(), 1, 0, 0, wanted={GENERATE}) for i in range(count)]


@contextmanager
def beside(step: Callable[[int], None], every_s: float) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.wait(every_s):
            step(number)
            number += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


def waited(join: Join, wanted: list[Group], **limits: float) -> float:
    """Seconds until all is there, or the wait is given up (`Unavailable`)."""
    for group in wanted:
        join.expect(group)
    started = time.monotonic()
    limits = {"quiet_s": 60.0, "in_work_s": 60.0, "timeout_s": 60.0, **limits}
    list(join.wait(wanted, **limits))
    return time.monotonic() - started


def test_a_wait_lasts_as_long_as_rollouts_get_further(streams: Streams) -> None:
    wanted = groups(7)
    ids = [item for group in wanted for item in group.entries]

    def finish(number: int) -> None:
        if number < len(ids):
            header = wire.header(streams.run_id, ids[number])
            streams.publish(Outcome({(ROLLOUT, ids[number]): b"x"}, [stage_done(header, GENERATE, "")]))

    with beside(finish, 0.4):
        took = waited(Join(streams, "trainer"), wanted, timeout_s=2.0, quiet_s=2.0, in_work_s=2.0)
    assert took > 2.3, "seven answers, 0.4 s each: more in all than any of the limits"


def test_news_of_others_is_no_progress(streams: Streams) -> None:
    def twin(number: int) -> None:
        header = wire.header(streams.run_id, f"late-{number}")
        streams.publish(Outcome({}, [stage_done(header, GENERATE, "g")]))

    with beside(twin, 0.1), pytest.raises(Unavailable, match="rollouts miss stage 'generate'"):
        waited(Join(streams, "trainer"), groups(1), timeout_s=0.8)


def test_nobody_there_is_told_early_and_somebody_at_work_is_waited_for(streams: Streams) -> None:
    streams.lease_ms = 1500  # a busy machine may delay a renewal by some 100 ms
    join, limits = Join(streams, "trainer"), {"quiet_s": 0.5, "in_work_s": 3.0}
    started = time.monotonic()
    with pytest.raises(Unavailable, match="no sampler of this run is alive"):
        waited(join, groups(1), **{**limits, "in_work_s": 60.0})
    assert time.monotonic() - started < 30
    streams.ensure(GENERATE)
    streams.add(GENERATE, b"request")
    held = streams.read(GENERATE, "sampler-1")
    started = time.monotonic()
    with beside(lambda _: streams.renew(GENERATE, "sampler-1", {held[0].id}) and None, 0.2), pytest.raises(Unavailable):
        waited(join, groups(1), **limits)
    assert 3.0 < time.monotonic() - started < 40


def config(**settings: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"student": "s", "dataset": {"path": "d"}, **settings})


def test_every_deadline_grows_with_the_tokens() -> None:
    usual, long = (config(sampling={"max_new_tokens": tokens}) for tokens in (1024, 8192))
    short = config(sampling={"max_new_tokens": 32})
    for read, base in (
        (lambda p: p.in_work_s, 600),
        (lambda p: p.step_s, 3600),
        (lambda p: p.redispatch_s(GENERATE), 300),
        (lambda p: p.redispatch_s(SCORE), 300),
    ):
        of = {name: read(patience_of(c, rows_of(c))) for name, c in (("s", short), ("u", usual), ("l", long))}
        assert of == {"s": base, "u": base, "l": 8 * base}
    assert patience_of(long, 64).redispatch_s(VERIFY) == 300
    assert patience_of(long, 256).in_work_s == 4 * patience_of(long, 64).in_work_s
    off = config(sampling={"max_new_tokens": 8192}, fault={"redispatch_s": 0})
    assert patience_of(off, 64).redispatch_s(GENERATE) == 0


def test_other_ranks_wait_as_long_as_rank_0_may() -> None:
    plain = config(sampling={"max_new_tokens": 8192})
    evaluated = config(
        sampling={"max_new_tokens": 8192}, eval={"dataset": {"path": "d"}, "n": 5000, "samples": 8, "k": [1]}
    )
    assert longest_wait_s(plain) > patience_of(plain, rows_of(plain)).step_s * (plain.fault.max_redraws + 1)
    assert longest_wait_s(evaluated) > 100 * longest_wait_s(plain) / 20


@pytest.mark.parametrize(("tokens", "rows", "expected"), [(64, 8, 3600), (8192, 64, 28_800), (8192, 128, 57_600)])
def test_a_request_may_take_as_long_as_its_longest_response(tokens: int, rows: int, expected: float) -> None:
    request = rollout_pb2.GenerateRequest(
        groups=[rollout_pb2.GroupRequest(group_id="g", n=rows)],
        sampling=rollout_pb2.SamplingParams(max_new_tokens=tokens),
    )
    assert deadline_s(Delivery("1-0", GENERATE, request.SerializeToString(), 1)) == expected
    assert deadline_s(Delivery("1-0", GENERATE, b"\xff", 1)) == 3600


def test_a_score_may_take_as_long_as_its_rollout_is() -> None:
    job = teacher_pb2.ScoreJob(tokens=8192)
    assert score_deadline_s(Delivery("1-0", SCORE, job.SerializeToString(), 1)) == 8 * 1800
    assert score_deadline_s(Delivery("1-0", SCORE, b"\xff", 1)) == 1800
