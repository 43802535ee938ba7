"""The client side of the teacher: several teachers by name, several replicas of each, one call.

    pool = TeacherPool({"": ["http://t1:8100", "http://t2:8100"], "math": ["http://m1:8100"]})
    scores = pool.score(items, support=SUPPORT_STUDENT, teacher="math")

A call goes to the replica with the fewest outstanding tokens. A replica that fails is left alone for a while
(circuit breaker) and asked for /readyz until it answers; its calls move to the others. A call that takes longer
than `hedge_after_s` is sent to a second replica as well, the first answer wins and the other call is cancelled,
which takes it out of that teacher's queue. Scoring changes nothing on a teacher, so a repeated call is harmless.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import httpx

from rgopd.common import wire
from rgopd.common.deadlines import for_call
from rgopd.common.errors import InvalidInput, Malformed, RgopdError, TooLarge, Unauthorized, Unavailable
from rgopd.common.streams import SCORE
from rgopd.protos import common_pb2, teacher_pb2

_NAME = re.compile(r"[A-Za-z0-9_]{0,64}")
_REFUSED: dict[int, type[RgopdError]] = {
    400: InvalidInput,
    401: Unauthorized,
    413: TooLarge,
    415: InvalidInput,
    422: InvalidInput,
}


def score_stream(teacher: str = "") -> str:
    """The stream that a teacher's workers consume; one for each named teacher.

    Raises:
        InvalidInput: a name that is not letters, digits and underscores.
    """
    if not _NAME.fullmatch(teacher):
        raise InvalidInput(f"teacher {teacher!r}: use up to 64 letters, digits and underscores")
    return f"{SCORE}_{teacher}" if teacher else SCORE


def choose_teacher(teacher: str, domain: str, by_domain: Mapping[str, str]) -> str:
    """Which teacher scores a prompt: its own `teacher` field, else the rule for its domain, else the default ("")."""
    return teacher or by_domain.get(domain, by_domain.get("*", ""))


TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Times in seconds."""

    timeout_s: float | None = None
    """One call, all its attempts together. None: 600, and in proportion for calls of over 65,536 tokens."""
    hedge_after_s: float = 60.0
    """A call is sent to a second replica after this long, in proportion for calls of over 65,536 tokens; 0: never."""
    probe_every_s: float = 2.0
    breaker_failures: int = 2
    """Failures in a row that open a replica's breaker."""
    breaker_s: float = 5.0
    """How long an open breaker keeps a replica out, unless a probe finds it ready before."""


@dataclass(eq=False, slots=True)
class Replica:
    """One teacher process as the pool sees it."""

    url: str
    outstanding: int = 0
    """Tokens sent and not answered."""
    failures: int = 0
    closed_until: float = 0.0
    """Monotonic time before which it gets no calls."""
    calls: int = 0
    lost: int = 0
    """Calls that it failed."""
    why: str = ""
    """What it said, or did, when it last took no call."""

    def usable(self, now: float) -> bool:
        """Not behind an open breaker or a Retry-After."""
        return now >= self.closed_until


class _Again(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Call:
    body: bytes
    tokens: int
    ids: Sequence[str]
    headers: Mapping[str, str] = field(default_factory=dict)


class TeacherPool:
    """Thread-safe; one per process. `close` when done.

    Args:
        teachers: base URLs of each teacher's replicas, by teacher name; "" is the default one.
        token: bearer token that they ask for.
        settings: times and limits.
        transport: for tests.
        verify: TLS trust: an ssl.SSLContext (also where a client certificate goes), or False for none.
    """

    def __init__(
        self,
        teachers: Mapping[str, Sequence[str]],
        *,
        token: str = "",
        settings: PoolSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        if not teachers or not all(teachers.values()):
            raise InvalidInput("teachers: give at least one URL for each teacher")
        self.settings = settings or PoolSettings()
        self.replicas = {name: [Replica(url.rstrip("/")) for url in urls] for name, urls in teachers.items()}
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(None, connect=5),  # `_score` bounds a call as a whole
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            transport=transport,
            verify=verify,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher-pool", daemon=True)
        self._thread.start()
        self._probes = asyncio.run_coroutine_threadsafe(self._probe_forever(), self._loop)

    def submit(
        self,
        items: Sequence[teacher_pb2.ScoreItem],
        *,
        support: teacher_pb2.Support,
        k: int = 0,
        temperature: float = 1.0,
        teacher: str = "",
        topk_dtype: common_pb2.DType = common_pb2.DTYPE_FLOAT32,
        zstd: bool = False,
        header: common_pb2.Header | None = None,
        across: teacher_pb2.Across = teacher_pb2.ACROSS_MAPPED,
    ) -> Future[teacher_pb2.ScoreResponse]:
        """Score items at one teacher; the future's response has a score for each, in order.

        Its exception is `InvalidInput` for items that no replica can score, `Unavailable` when no replica
        answered within `timeout_s`. Cancelling it takes the items out of the teacher's queue.

        Raises:
            InvalidInput: no teacher of that name.
        """
        if teacher not in self.replicas:
            known = ", ".join(repr(name) for name in self.replicas)
            raise InvalidInput(f"teacher {teacher!r} is not configured; known are {known}")
        request = teacher_pb2.ScoreRequest(
            header=header,
            k=k,
            support=support,
            temperature=temperature,
            rollouts=items,
            topk_dtype=topk_dtype,
            across=across,
        )
        tokens = sum(len(i.prompt_ids.data) + len(i.response_ids.data) for i in items) // 4
        headers = {"Content-Type": wire.PROTOBUF, "Accept-Encoding": "zstd" if zstd else "identity"}
        if header is not None and header.trace_id:
            headers["traceparent"] = header.trace_id
        call = _Call(request.SerializeToString(), tokens, [item.id for item in items], headers)
        return asyncio.run_coroutine_threadsafe(self._score(call, self.replicas[teacher]), self._loop)

    def score(
        self,
        items: Sequence[teacher_pb2.ScoreItem],
        *,
        support: teacher_pb2.Support,
        k: int = 0,
        temperature: float = 1.0,
        teacher: str = "",
    ) -> list[teacher_pb2.TeacherScore]:
        """`submit`, and wait."""
        response = self.submit(items, support=support, k=k, temperature=temperature, teacher=teacher).result()
        return list(response.scores)

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _score(self, call: _Call, replicas: list[Replica]) -> teacher_pb2.ScoreResponse:
        reason = "the call is still in work"
        timeout_s = for_call(TIMEOUT_S, call.tokens) if self.settings.timeout_s is None else self.settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await self._hedged(call, replicas)
                    except _Again as again:
                        reason = str(again)
                        await asyncio.sleep(self._wait_s(replicas))
        except TimeoutError:
            raise Unavailable(f"no teacher answered within {timeout_s:g} s; last: {reason}") from None

    async def _hedged(self, call: _Call, replicas: list[Replica]) -> teacher_pb2.ScoreResponse:
        """The first answer of one replica, or of two when the first is slow."""
        first = self._pick(replicas)
        if first is None:
            raise _Again("every replica is out: " + "; ".join(r.why or f"{r.url} is not ready" for r in replicas))
        tasks = [asyncio.ensure_future(self._send(call, first))]
        try:
            await asyncio.wait(tasks, timeout=for_call(self.settings.hedge_after_s, call.tokens) or None)
            second = None if tasks[0].done() else self._pick(replicas, besides=first)
            if second is not None:
                tasks.append(asyncio.ensure_future(self._send(call, second)))
            return await _first_answer(tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _pick(self, replicas: list[Replica], besides: Replica | None = None) -> Replica | None:
        now = time.monotonic()
        usable = [r for r in replicas if r is not besides and r.usable(now)]
        # Fewest calls breaks ties, so that an idle pool is used evenly.
        return min(usable, key=lambda r: (r.outstanding, r.calls), default=None)

    def _wait_s(self, replicas: list[Replica]) -> float:
        soonest = min(r.closed_until for r in replicas) - time.monotonic()
        return min(1.0, max(0.02, soonest))

    async def _send(self, call: _Call, replica: Replica) -> teacher_pb2.ScoreResponse:
        replica.outstanding += call.tokens
        replica.calls += 1
        try:
            answer = await self._client.post(f"{replica.url}/score_topk", content=call.body, headers=dict(call.headers))
        except httpx.TransportError as error:
            raise self._failed(replica, f"{type(error).__name__} {error}") from error
        finally:
            replica.outstanding -= call.tokens
        if answer.status_code == 200:
            # An answer that is none says something of this replica (or of a proxy before it), not of the call.
            try:
                response = wire.parse(teacher_pb2.ScoreResponse, answer.content)
            except Malformed as error:
                raise self._failed(replica, f"an answer that cannot be read: {error}") from error
            if [score.id for score in response.scores] != list(call.ids):
                raise self._failed(replica, "answered other rollouts than were asked for")
            replica.failures = 0
            return response
        if answer.status_code in _REFUSED:
            replica.failures = 0
            raise _REFUSED[answer.status_code](f"{replica.url}: {_detail(answer)}")
        why = f"{answer.status_code} {_detail(answer)}"
        if answer.status_code == 429:  # healthy and full
            replica.closed_until = time.monotonic() + min(30.0, _retry_after(answer))
            replica.why = f"{replica.url}: {why}"
            raise _Again(replica.why)
        raise self._failed(replica, why, at_once=answer.status_code == 503)

    def _failed(self, replica: Replica, why: str, at_once: bool = False) -> _Again:
        replica.failures += 1
        replica.lost += 1
        replica.why = f"{replica.url}: {why}"
        if at_once or replica.failures >= self.settings.breaker_failures:
            replica.closed_until = time.monotonic() + self.settings.breaker_s
        return _Again(replica.why)

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.probe_every_s)
            everyone = [r for replicas in self.replicas.values() for r in replicas]
            await asyncio.gather(*(self._probe(r) for r in everyone if r.failures))

    async def _probe(self, replica: Replica) -> None:
        """Ask a replica that failed; an idle pool thus notices both death and return."""
        try:
            answer = await self._client.get(f"{replica.url}/readyz", timeout=5)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200:
            replica.failures, replica.closed_until = 0, 0.0
        else:
            replica.closed_until = time.monotonic() + self.settings.breaker_s


async def _first_answer(tasks: list[asyncio.Task[teacher_pb2.ScoreResponse]]) -> teacher_pb2.ScoreResponse:
    """The first result. `tasks[0]` is the call itself, the other its hedge.

    The call's refusal is final. The hedge's is not: a replica with a lower limit must not end what the first one has
    taken on. A replica's failure counts when no other works on the call.
    """
    pending, again = set(tasks), _Again("no answer")
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None:
                return task.result()
        for task in done:
            error = task.exception()
            if isinstance(error, _Again):
                again = error
            elif error is not None and (task is tasks[0] or not isinstance(error, RgopdError)):
                raise error
            else:
                again = _Again(str(error))
    raise again


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("retry-after", "1")
    return float(value) if value.isdigit() else 1.0
