"""The services from Python, by themselves: `rgopd.ScoreClient` for /score_topk, `rgopd.VerifyClient` for /verify.

    with rgopd.VerifyClient("http://127.0.0.1:8002") as verifier:
        verdict = verifier.verify_one("math", r"so \\boxed{4}", reference="4")

Every method has an `a...` twin for asyncio. Both wait out a service that is full or starting; what a service refuses is
the error of `rgopd.common.errors` that its text describes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from rgopd.common import wire
from rgopd.common.errors import InvalidInput, RgopdError, TooLarge, Unauthorized, Unavailable
from rgopd.common.teacher_client import PoolSettings, TeacherPool
from rgopd.protos import teacher_pb2

Ids = Sequence[int] | NDArray[Any]

_REFUSED: dict[int, type[RgopdError]] = {
    400: InvalidInput,
    401: Unauthorized,
    413: TooLarge,
    415: InvalidInput,
    422: InvalidInput,
}
TIMEOUT_S, ITEM_S = 300.0, 20.0
_JSON = {"Content-Type": "application/json"}
_PASSES_BY = (429, 502, 503, 504)
_SUPPORT = {
    "student": teacher_pb2.SUPPORT_STUDENT,
    "teacher": teacher_pb2.SUPPORT_TEACHER,
    "none": teacher_pb2.SUPPORT_NONE,
}


@dataclass(frozen=True)
class Rollout:
    """What the teacher scores. T response ids; `support_ids` are T rows of K distinct ids, -1 for padding."""

    prompt_ids: Ids
    response_ids: Ids
    support_ids: Sequence[Ids] | NDArray[Any] | None = None
    id: str = ""


@dataclass(frozen=True)
class Score:
    """Natural-log probabilities of one rollout under the teacher, float32."""

    id: str
    sampled_logprobs_T: NDArray[np.float32]
    topk_ids_TK: NDArray[np.int32] | None
    """With support "teacher": the teacher's own; with "student" those that were sent; None with "none"."""
    topk_logprobs_TK: NDArray[np.float32] | None
    tail_logprob_T: NDArray[np.float32] | None
    """log of the mass outside the K ids."""


@dataclass(frozen=True)
class TestOutcome:
    """One test of a code item."""

    status: Literal["passed", "failed", "error"]
    reason: str
    duration_ms: float


@dataclass(frozen=True)
class Verdict:
    """`reward` is None exactly when the status is "error": then nothing is known, and it is no reward."""

    id: str
    status: Literal["passed", "failed", "error"]
    reward: float | None
    reason: str
    extracted: str | None
    tests: tuple[TestOutcome, ...]
    duration_ms: float

    def __bool__(self) -> bool:
        """Whether it passed."""
        return self.status == "passed"


class ScoreClient:
    """A teacher, or several replicas of one.

    Args:
        urls: base URL of the service, or of each replica.
        token: bearer token that it asks for.
        timeout_s: one call, all its attempts together. None: 600, more for calls of over 65,536 tokens.
    """

    def __init__(self, urls: str | Sequence[str], *, token: str = "", timeout_s: float | None = None) -> None:
        given = [_base(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self._pool = TeacherPool({"": given}, token=token, settings=PoolSettings(timeout_s=timeout_s))

    def score(
        self, rollouts: Sequence[Rollout], *, k: int = 0, support: str = "student", temperature: float = 1.0
    ) -> list[Score]:
        """A score for each rollout, in order.

        Args:
            k: with support "teacher", how many of the teacher's likeliest ids.
            support: "student": at `support_ids`; "teacher": the teacher's own top k; "none": the sampled ids alone.
            temperature: logits are divided by it.

        Raises:
            InvalidInput: what cannot be scored; the text says why.
            Unavailable: nobody answered within `timeout_s`.
        """
        return _scores(rollouts, self._submit(rollouts, k, support, temperature).result())

    async def ascore(
        self, rollouts: Sequence[Rollout], *, k: int = 0, support: str = "student", temperature: float = 1.0
    ) -> list[Score]:
        """`score` for asyncio; cancelling it takes the rollouts out of the teacher's queue."""
        return _scores(rollouts, await asyncio.wrap_future(self._submit(rollouts, k, support, temperature)))

    def _submit(self, rollouts: Sequence[Rollout], k: int, support: str, temperature: float) -> Any:
        if support not in _SUPPORT:
            raise InvalidInput(f"support {support!r}: use student, teacher or none")
        items = [_item(rollout, number, support) for number, rollout in enumerate(rollouts)]
        if not items:
            raise InvalidInput("rollouts: give at least one")
        return self._pool.submit(items, support=_SUPPORT[support], k=k, temperature=temperature)

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._pool.close()

    async def aclose(self) -> None:
        """`close` without blocking the loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _base(url: str) -> str:
    """A service's base URL; what is none would be tried until the time is over."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInput(f"{url!r} is no URL ({error}): write http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"{url!r} is no URL of a service: write http://HOST:PORT")
    return url.rstrip("/")


def _item(rollout: Rollout, number: int, support: str) -> teacher_pb2.ScoreItem:
    name = rollout.id or str(number)
    item = teacher_pb2.ScoreItem(
        id=name,
        prompt_ids=wire.to_tensor(_ids(rollout.prompt_ids, name, "prompt_ids")),
        response_ids=wire.to_tensor(_ids(rollout.response_ids, name, "response_ids")),
    )
    if support == "student":
        if rollout.support_ids is None:
            raise InvalidInput(
                f"rollout {item.id!r}: support student needs support_ids; or ask with support=teacher and k"
            )
        item.support_ids.CopyFrom(wire.to_tensor(_ids(rollout.support_ids, name, "support_ids", axes=2)))
    return item


def _ids(given: Any, rollout: str, name: str, axes: int = 1) -> NDArray[np.int32]:
    """Token ids as int32; text, fractions and ragged rows are told here, by name."""
    try:
        ids = np.asarray(given)
    except ValueError as error:
        raise InvalidInput(f"rollout {rollout!r}: {name} have rows of different lengths; pad with -1") from error
    if ids.size == 0:
        ids = ids.astype(np.int32)
    if ids.dtype.kind not in "iu" or ids.ndim != axes or np.abs(ids, dtype=np.int64).max(initial=0) > 2**31 - 1:
        shape = "a list of token ids" if axes == 1 else "a list of K token ids for each response token"
        raise InvalidInput(f"rollout {rollout!r}: {name} must be {shape} (tokenise text first)")
    return ids.astype(np.int32)


def _scores(rollouts: Sequence[Rollout], response: teacher_pb2.ScoreResponse) -> list[Score]:
    def array(message: Any, name: str) -> Any:
        return wire.from_tensor(getattr(message, name), name) if message.HasField(name) else None

    made = []
    for rollout, score in zip(rollouts, response.scores, strict=True):
        ids = array(score, "topk_ids")
        if ids is None and rollout.support_ids is not None and score.HasField("topk_logprobs"):
            ids = np.asarray(rollout.support_ids, dtype=np.int32)
        logprobs, tail = array(score, "topk_logprobs"), array(score, "tail_logprob")
        made.append(Score(score.id, array(score, "sampled_logprobs"), ids, logprobs, tail))
    return made


class VerifyClient:
    """A verifier.

    Args:
        url: base URL of the service.
        token: bearer token that it asks for.
        timeout_s: one call, waiting for a full or starting service included. None: 300, and 20 for every item.
    """

    def __init__(self, url: str, *, token: str = "", timeout_s: float | None = None) -> None:
        self.url = _base(url)
        self.timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._sync: httpx.Client | None = None
        self._async: httpx.AsyncClient | None = None

    def verify(self, items: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """A verdict for each item, in order.

        Args:
            items: `kind`, `response` and the kind's own fields (docs/verifier.md); an `id` is made where there is none.

        Raises:
            InvalidInput: an item that does not fit its kind; the text names it.
            Unavailable: no answer within `timeout_s`.
        """
        if self._sync is None:
            self._sync = httpx.Client(headers=self._headers)
        body, timeout_s = _body(items), self._allowed_s(len(items))
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = self._sync.post(
                    f"{self.url}/verify", content=body, headers=_JSON, timeout=self._left(deadline)
                )
                if answer.status_code not in _PASSES_BY:
                    return _verdicts(answer)
                reason, pause = f"{answer.status_code} {_detail(answer)}", _pause(answer)
            except httpx.TransportError as error:
                reason, pause = f"{type(error).__name__} {error}", 0.2
            self._give_up(deadline, timeout_s, reason)
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))

    async def averify(self, items: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """`verify` for asyncio."""
        if self._async is None:
            self._async = httpx.AsyncClient(headers=self._headers)
        body, timeout_s = _body(items), self._allowed_s(len(items))
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = await self._async.post(
                    f"{self.url}/verify", content=body, headers=_JSON, timeout=self._left(deadline)
                )
                if answer.status_code not in _PASSES_BY:
                    return _verdicts(answer)
                reason, pause = f"{answer.status_code} {_detail(answer)}", _pause(answer)
            except httpx.TransportError as error:
                reason, pause = f"{type(error).__name__} {error}", 0.2
            self._give_up(deadline, timeout_s, reason)
            await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))

    def verify_one(self, kind: str, response: str, **fields: Any) -> Verdict:
        """The verdict on one response, e.g. `verify_one("math", text, reference="4")`."""
        return self.verify([{"kind": kind, "response": response, **fields}])[0]

    async def averify_one(self, kind: str, response: str, **fields: Any) -> Verdict:
        """`verify_one` for asyncio."""
        return (await self.averify([{"kind": kind, "response": response, **fields}]))[0]

    def close(self) -> None:
        """Close the connections of the plain methods."""
        if self._sync is not None:
            self._sync.close()
            self._sync = None

    async def aclose(self) -> None:
        """Close all connections."""
        self.close()
        if self._async is not None:
            await self._async.aclose()
            self._async = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _left(self, deadline: float) -> float:
        return max(0.01, deadline - time.monotonic())

    def _allowed_s(self, items: int) -> float:
        """A check may take its wall time, and one worker may have to do all of them."""
        return TIMEOUT_S + ITEM_S * items if self.timeout_s is None else self.timeout_s

    def _give_up(self, deadline: float, timeout_s: float, reason: str) -> None:
        if time.monotonic() >= deadline:
            raise Unavailable(f"{self.url} did not answer within {timeout_s:g} s; last: {reason}")


def _body(items: Sequence[Mapping[str, Any]]) -> bytes:
    if isinstance(items, (str, Mapping)):
        raise InvalidInput("items: give a list of mappings; verify_one takes a single one")
    made = []
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise InvalidInput(f"items[{number}]: give a mapping with kind, response and the kind's fields")
        made.append({"id": str(number), **item})
    try:
        return json.dumps({"items": made}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"items cannot be written as JSON: {error}") from error


def _verdicts(answer: httpx.Response) -> list[Verdict]:
    if answer.status_code != 200:
        why = _detail(answer)
        if answer.status_code == 404:
            why = f"{answer.url} is not there ({why}): is this the verifier's address?"
        raise _REFUSED.get(answer.status_code, RgopdError)(why)
    return [
        Verdict(
            v["id"],
            v["status"],
            v["reward"],
            v["reason"],
            v.get("extracted"),
            tuple(TestOutcome(t["status"], t["reason"], t["duration_ms"]) for t in v.get("tests", [])),
            v["duration_ms"],
        )
        for v in answer.json()["verdicts"]
    ]


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]


def _pause(answer: httpx.Response) -> float:
    value = answer.headers.get("retry-after", "")
    return min(10.0, float(value)) if value.isdigit() else 0.5
