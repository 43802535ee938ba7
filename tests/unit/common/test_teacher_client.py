"""Routing, failover, hedging and the circuit breaker, against replicas whose behaviour the test sets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, TooLarge, Unavailable
from rgopd.common.teacher_client import PoolSettings, TeacherPool, choose_teacher, score_stream
from rgopd.protos import teacher_pb2
from tests.waiting import eventually

NONE = teacher_pb2.SUPPORT_NONE


class Fleet:
    """Teachers by host name. `acts[host]` is a status, an exception, seconds to take, or the bytes of an answer."""

    def __init__(self) -> None:
        self.acts: dict[str, list[int | float | bytes | Exception]] = {}
        self.asked: list[tuple[str, list[str]]] = []
        self.cancelled: list[str] = []
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        acts = self.acts.get(host, [])
        if request.url.path == "/readyz":
            return httpx.Response(503 if acts else 200)
        message = wire.parse(teacher_pb2.ScoreRequest, request.content)
        self.asked.append((host, [item.id for item in message.rollouts]))
        self.requests.append(request)
        act = acts.pop(0) if acts else 200
        if isinstance(act, Exception):
            raise act
        if isinstance(act, float):
            try:
                await asyncio.sleep(act)
            except asyncio.CancelledError:
                self.cancelled.append(host)
                raise
            act = 200
        if isinstance(act, bytes):
            return httpx.Response(200, content=act)
        if act != 200:
            return httpx.Response(act, json={"detail": f"said {act}"}, headers={"Retry-After": "1"})
        scores = [
            teacher_pb2.TeacherScore(id=item.id, sampled_logprobs=wire.to_tensor(np.zeros(1, np.float32)))
            for item in message.rollouts
        ]
        answer = teacher_pb2.ScoreResponse(model=host, scores=scores)
        return httpx.Response(200, content=answer.SerializeToString())

    @property
    def hosts(self) -> list[str]:
        return [host for host, _ in self.asked]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


Make = Callable[..., TeacherPool]


@pytest.fixture
def make(fleet: Fleet) -> Iterator[Make]:
    pools = []

    def make(*hosts: str, **settings: float) -> TeacherPool:
        values = {"timeout_s": 60.0, "hedge_after_s": 0.0, "probe_every_s": 60.0, "breaker_s": 0.2, **settings}
        pool = TeacherPool(
            {"": [f"http://{host}" for host in hosts], "math": ["http://math"]},
            settings=PoolSettings(**values),
            transport=httpx.MockTransport(fleet),
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def item(name: str = "r", tokens: int = 10) -> teacher_pb2.ScoreItem:
    ids = wire.to_tensor(np.zeros(tokens - 1, np.int32))
    return teacher_pb2.ScoreItem(id=name, prompt_ids=ids, response_ids=wire.to_tensor(np.zeros(1, np.int32)))


def test_teachers_are_chosen_by_name(make, fleet) -> None:
    pool = make("a")
    pool.score([item()], support=NONE)
    pool.score([item()], support=NONE, teacher="math")
    assert fleet.hosts == ["a", "math"]
    with pytest.raises(InvalidInput, match="'physics' is not configured"):
        pool.score([item()], support=NONE, teacher="physics")


def test_an_idle_pool_is_used_evenly(make, fleet) -> None:
    pool = make("a", "b", "c")
    for _ in range(9):
        pool.score([item()], support=NONE)
    assert sorted(fleet.hosts) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_a_call_goes_where_the_fewest_tokens_are_outstanding(make, fleet) -> None:
    pool = make("a", "b")
    fleet.acts = {"a": [60.0]}  # until it is cancelled, however long the others take
    large = pool.submit([item("large", 1000)], support=NONE)
    eventually(lambda: fleet.asked)
    for n in range(5):
        pool.score([item(f"small{n}")], support=NONE)
    assert fleet.hosts == ["a"] + ["b"] * 5
    large.cancel()


@pytest.mark.parametrize("act", [httpx.ConnectError("refused"), httpx.ReadError("reset"), 503, 500, 502])
def test_a_failed_call_moves_to_another_replica(make, fleet, act) -> None:
    pool = make("a", "b")
    fleet.acts = {"a": [act]}
    assert [s.id for s in pool.score([item("x"), item("y")], support=NONE)] == ["x", "y"]
    assert fleet.hosts == ["a", "b"]


def test_a_full_replica_is_left_alone_as_long_as_it_asks(make, fleet) -> None:
    pool = make("a", "b")
    fleet.acts = {"a": [429]}
    for _ in range(4):
        pool.score([item()], support=NONE)
    assert fleet.hosts == ["a", "b", "b", "b", "b"]


def test_one_full_replica_is_waited_for(make, fleet) -> None:
    pool = make("a")
    fleet.acts = {"a": [429]}
    started = time.monotonic()
    pool.score([item()], support=NONE)
    assert fleet.hosts == ["a", "a"]
    assert time.monotonic() - started >= 0.95


@pytest.mark.parametrize(("status", "says"), [(422, "said 422"), (400, "said 400"), (413, "said 413"), (401, "said")])
def test_a_refusal_is_final(make, fleet, status, says) -> None:
    pool = make("a", "b")
    fleet.acts = {"a": [status]}
    with pytest.raises(Exception, match=says):
        pool.score([item()], support=NONE)
    assert fleet.hosts == ["a"]


def test_the_breaker_opens_and_a_probe_closes_it(make, fleet) -> None:
    pool = make("a", "b", breaker_s=60.0, probe_every_s=0.05)
    fleet.acts = {"a": [503, 503]}
    pool.score([item()], support=NONE)
    for _ in range(3):
        pool.score([item()], support=NONE)
    assert fleet.hosts == ["a", "b", "b", "b", "b"]
    fleet.acts = {}
    eventually(lambda: not pool.replicas[""][0].failures)
    pool.score([item()], support=NONE)
    assert fleet.hosts[-1] == "a"


def test_a_slow_call_is_hedged_and_its_loser_cancelled(make, fleet) -> None:
    pool = make("a", "b", hedge_after_s=0.05)
    fleet.acts = {"a": [60.0]}
    started = time.monotonic()
    assert len(pool.score([item()], support=NONE)) == 1
    assert time.monotonic() - started < 30
    assert fleet.hosts == ["a", "b"]
    eventually(lambda: fleet.cancelled)
    assert fleet.cancelled == ["a"]
    assert [replica.outstanding for replica in pool.replicas[""]] == [0, 0]


def test_a_hedge_that_fails_does_not_fail_the_call(make, fleet) -> None:
    pool = make("a", "b", hedge_after_s=0.05)
    fleet.acts = {"a": [0.4], "b": [httpx.ConnectError("refused")]}
    assert len(pool.score([item()], support=NONE)) == 1
    assert fleet.hosts == ["a", "b"]


@pytest.mark.parametrize("status", [413, 422])
def test_a_hedge_that_is_refused_does_not_fail_the_call(make, fleet, status) -> None:
    pool = make("a", "b", hedge_after_s=0.05)
    fleet.acts = {"a": [0.4], "b": [status]}
    assert len(pool.score([item()], support=NONE)) == 1
    assert fleet.hosts == ["a", "b"]
    assert not fleet.cancelled


def test_what_the_first_replica_refuses_while_hedged_is_refused(make, fleet) -> None:
    async def slow_refusal(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            await asyncio.sleep(0.2)
            return httpx.Response(413, json={"detail": "too large"})
        await asyncio.sleep(60)
        return httpx.Response(200)

    settings = PoolSettings(timeout_s=60.0, hedge_after_s=0.05, probe_every_s=60.0)
    pool = TeacherPool({"": ["http://a", "http://b"]}, settings=settings, transport=httpx.MockTransport(slow_refusal))
    started = time.monotonic()
    with pytest.raises(TooLarge, match="too large"):
        pool.score([item()], support=NONE)
    assert time.monotonic() - started < 30
    pool.close()


def test_what_both_replicas_refuse_is_refused(make, fleet) -> None:
    pool = make("a", "b", hedge_after_s=0.05)
    fleet.acts = {"a": [422], "b": [422]}
    with pytest.raises(InvalidInput, match="said 422"):
        pool.score([item()], support=NONE)


def test_a_refused_hedge_is_asked_again_when_the_first_replica_fails(make, fleet) -> None:
    async def act(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(503)
        if request.url.host == "a":
            await asyncio.sleep(0.2)
            return httpx.Response(503, json={"detail": "draining"})
        return httpx.Response(422, json={"detail": "out of the vocabulary"})

    settings = PoolSettings(timeout_s=60.0, hedge_after_s=0.05, probe_every_s=60.0, breaker_s=60.0)
    pool = TeacherPool({"": ["http://a", "http://b"]}, settings=settings, transport=httpx.MockTransport(act))
    with pytest.raises(InvalidInput, match="out of the vocabulary"):
        pool.score([item()], support=NONE)
    pool.close()


@pytest.mark.parametrize(
    "answer", [b"\xff\xff<html>", teacher_pb2.ScoreResponse(model="a").SerializeToString()], ids=["noise", "others"]
)
def test_an_answer_that_is_none_moves_the_call_to_another_replica(make, fleet, answer) -> None:
    pool = make("a", "b", breaker_s=60.0)
    fleet.acts = {"a": [answer, answer, answer]}
    for _ in range(5):
        assert len(pool.score([item()], support=NONE)) == 1
    assert fleet.hosts.count("a") == 2, "the breaker counts it as the replica's failure"
    assert pool.replicas[""][0].lost == 2


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (httpx.ConnectError("refused"), "http://a: ConnectError refused"),
        (429, "http://a: 429 said 429"),
        (503, "http://a: 503 said 503"),
        (b"\xff\xff", "http://a: an answer that cannot be read"),
    ],
)
def test_when_nobody_answers_the_last_reason_is_told(make, fleet, act, says) -> None:
    pool = make("a", timeout_s=1.0)
    fleet.acts = {"a": [act] * 1000}
    with pytest.raises(Unavailable, match=rf"within 1 s; last: .*{says}"):
        pool.score([item()], support=NONE)


def test_a_call_that_was_never_answered_says_that_it_is_in_work(make, fleet) -> None:
    pool = make("a", timeout_s=0.2)
    fleet.acts = {"a": [60.0]}
    with pytest.raises(Unavailable, match="last: the call is still in work"):
        pool.score([item()], support=NONE)


def test_cancelling_reaches_the_replica(make, fleet) -> None:
    pool = make("a")
    fleet.acts = {"a": [10.0]}
    future = pool.submit([item()], support=NONE)
    eventually(lambda: fleet.asked)
    future.cancel()
    eventually(lambda: fleet.cancelled)
    assert fleet.cancelled == ["a"]


def test_closing_leaves_no_thread_and_no_waiting_call(make, fleet) -> None:
    pool = make("a")
    fleet.acts = {"a": [10.0]}
    future = pool.submit([item()], support=NONE)
    eventually(lambda: fleet.asked)
    pool.close()
    assert future.cancelled()
    assert not pool._thread.is_alive()
    pool.close = lambda: None  # the fixture's


def test_the_trace_travels(make, fleet) -> None:
    pool = make("a")
    header = wire.header("run", trace_id="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    pool.submit([item()], support=NONE, header=header).result(120)
    assert fleet.requests[0].headers["traceparent"] == header.trace_id


def test_many_threads_share_a_pool_while_replicas_fail(make, fleet) -> None:
    pool = make("a", "b", "c")
    fleet.acts = {"a": [503, httpx.ReadError("reset"), 429], "b": [500, 0.05, 502]}
    answers: list[str] = []

    def work(n: int) -> None:
        answers.extend(s.id for s in pool.score([item(f"{n}.{i}") for i in range(3)], support=NONE))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"{n}.{i}" for n in range(20) for i in range(3))


@pytest.mark.parametrize(
    ("teacher", "domain", "chosen"), [("own", "math", "own"), ("", "math", "m"), ("", "code", "rest"), ("", "", "rest")]
)
def test_rule_by_domain(teacher, domain, chosen) -> None:
    assert choose_teacher(teacher, domain, {"math": "m", "*": "rest"}) == chosen
    assert choose_teacher("", "code", {"math": "m"}) == ""


def test_stream_of_a_teacher() -> None:
    assert score_stream() == "score"
    assert score_stream("math") == "score_math"
    with pytest.raises(InvalidInput):
        score_stream("a:b")
