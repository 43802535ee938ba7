"""A vLLM that someone already runs, over its own HTTP API.

What the server can do is found out by asking it once at start-up, and said in /info and the log:

- "token-ids": its token-in/token-out route with fixed-id prompt log-probs (V2 model runner): exact, few bytes;
- "full-vocab": started with `--max-logprobs -1`: everything is exact, at a whole vocabulary in JSON a position;
- "top-k": anything else: the sampled ids and the teacher's own top k, up to its `--max-logprobs`, at temperature 1.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from rgopd.common.deadlines import for_response
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.teacher.engines import EngineFault, EngineInfo, settings_digest
from rgopd.teacher.engines.columns import join_own, score_from_columns, score_from_full, split_own
from rgopd.teacher.engines.loop import LoopThread
from rgopd.teacher.items import PAD_ID, Float, Score, ScoreItem, SupportKind

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
_UNREACHABLE = (httpx.TransportError, httpx.TimeoutException)


class VllmServerEngine:
    """Sends each rollout as one request; the server batches."""

    concurrency = 2
    recovers = True

    def __init__(self, config: TeacherConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        if not config.server_url:
            raise ConfigError("server_url: give the running vLLM's base URL, e.g. --set server_url=http://gpu1:8000")
        self._loop = LoopThread("vllm-server")
        headers = {"Authorization": f"Bearer {key}"} if (key := config.key()) else {}
        self._timeout_s = config.server_timeout_s
        timeout = httpx.Timeout(self._timeout_s, connect=10)
        self._client = httpx.AsyncClient(
            base_url=config.server_url, headers=headers, timeout=timeout, transport=transport
        )
        self._slots = asyncio.Semaphore(config.server_requests)
        try:
            self.info, self._own_vocab = self._loop.run(self._probe(config))
        except BaseException:
            self.close()
            raise
        _announce(self.info)

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Score items of one `Scoring`, in order."""
        return self._loop.run(self._score_all(items))

    def trouble(self) -> str:
        """What the server's own health route says."""
        try:
            answer = self._loop.run(self._client.get("/health", timeout=5))
        except _UNREACHABLE as error:
            return f"the vLLM server does not answer: {type(error).__name__} {error}"
        return "" if answer.status_code == 200 else f"the vLLM server's /health answered {answer.status_code}"

    def gpu_bytes(self) -> int:
        """0: the memory is another process's, whose own metrics have it."""
        return 0

    def close(self) -> None:
        """Close the connections; the server is someone else's."""
        self._loop.run(self._client.aclose())
        self._loop.close()

    async def _score_all(self, items: Sequence[ScoreItem]) -> list[Score]:
        return list(await asyncio.gather(*map(self._score_one, items)))

    async def _score_one(self, item: ScoreItem) -> Score:
        async with self._slots:
            if self.info.scoring == "full-vocab":
                return score_from_full(item, await self._full(item), item.scoring.temperature)
            if item.scoring.own_rows:
                named, top = split_own(item)
                return join_own(item, await self._token_ids(named) if named else None, await self._top(top))
            return await (self._token_ids(item) if item.scoring.support == "student" else self._top(item))

    async def _top(self, item: ScoreItem) -> Score:
        return _read_topk(item, await self._prompt_logprobs(item, item.scoring.k))

    async def _full(self, item: ScoreItem) -> Float:
        rows = await self._prompt_logprobs(item, -1)
        full_TV = np.full((len(rows), self._own_vocab), -np.inf, np.float32)
        for row_V, row in zip(full_TV, rows, strict=True):
            row_V[np.fromiter(map(int, row), np.int64, len(row))] = [entry["logprob"] for entry in row.values()]
        return full_TV[:, : self.info.vocab_size]

    async def _prompt_logprobs(self, item: ScoreItem, k: int) -> list[dict[str, dict[str, float]]]:
        body = {"prompt": item.input_ids.tolist(), "max_tokens": 1, "temperature": 0, "prompt_logprobs": k}
        answer = await self._post(COMPLETIONS, {"model": self.info.model, **body}, item.tokens)
        rows: list[dict[str, dict[str, float]]] = answer["choices"][0]["prompt_logprobs"]
        return rows[len(item.prompt_ids_C) :]

    async def _token_ids(self, item: ScoreItem) -> Score:
        """Support ids, then the sampled id, then the ids that are not shared, whose mass is taken out."""
        support_TK = item.support_ids_TK
        assert support_TK is not None, "validated before it was queued"
        rows, k = support_TK.shape
        surplus = np.arange(self.info.vocab_size, self._own_vocab, dtype=np.int32)
        named_TK = np.where(support_TK == PAD_ID, item.response_ids_T[:, None], support_TK)  # vLLM knows no pads
        ids = np.concatenate([named_TK, item.response_ids_T[:, None], np.tile(surplus, (rows, 1))], axis=1)
        columns = await self._fixed_ids(item.input_ids.tolist(), ids.tolist(), len(item.prompt_ids_C) - 1)
        if len(surplus):
            shared_T = np.log1p(-np.exp(columns[:, k + 1 :].astype(np.float64)).sum(-1))
            columns = (columns - shared_T[:, None]).astype(np.float32)
        return score_from_columns(item, columns[:, k], support_TK, columns[:, :k])

    async def _fixed_ids(self, token_ids: list[int], wanted: list[list[int]], start: int) -> Float:
        params = {
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprob_token_ids": wanted,
            "prompt_logprob_start": start,
        }
        answer = await self._post(GENERATE, {"token_ids": token_ids, "sampling_params": params}, len(token_ids))
        if not answer.get("prompt_token_id_logprobs"):
            raise EngineFault("the vLLM server answered without the fixed-id log-probs")
        raw = io.BytesIO(base64.b64decode(answer["prompt_token_id_logprobs"]))
        columns: Float = np.load(raw, allow_pickle=False)
        return columns

    async def _post(self, path: str, body: dict[str, Any], tokens: int) -> dict[str, Any]:
        timeout = httpx.Timeout(for_response(self._timeout_s, tokens), connect=10)
        try:
            response = await self._client.post(path, json=body, timeout=timeout)
        except _UNREACHABLE as error:
            raise EngineFault(f"vLLM server: {type(error).__name__} {error}") from error
        if response.status_code in (400, 403, 404, 405, 422, 501):
            raise InvalidInput(f"the vLLM server refused {path}: {response.text[:500]}")
        if response.status_code != 200:
            raise EngineFault(f"the vLLM server answered {response.status_code}: {response.text[:500]}")
        answer: dict[str, Any] = response.json()
        return answer

    async def _probe(self, config: TeacherConfig) -> tuple[EngineInfo, int]:
        """Ask the server what it holds and can do."""
        try:
            listed = await self._client.get("/v1/models")
            model = listed.raise_for_status().json()["data"][0]
        except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
            raise ConfigError(f"server_url: no vLLM answers at {config.server_url}: {error!r}") from error
        scoring, own_vocab, max_k = await self._method(model["id"], config)
        vocab = config.shared_vocab_size or own_vocab
        if not vocab:
            raise ConfigError("shared_vocab_size: this vLLM server does not tell its vocabulary; set it")
        if own_vocab and vocab > own_vocab:
            raise ConfigError(f"shared_vocab_size: {vocab} is more than the server's {own_vocab} ids")
        context = int(model["max_model_len"]) - 1  # vLLM always generates one id after the prompt
        supports: tuple[SupportKind, ...] = (
            ("teacher", "none") if scoring == "top-k" else ("student", "teacher", "none")
        )
        if scoring == "token-ids" and own_vocab > vocab:
            supports = ("student",)  # the other two would carry the surplus ids' mass
        info = EngineInfo(
            engine="vllm-server",
            model=model["id"],
            revision=config.revision or f"{model.get('root', model['id'])}@{config.server_url}",
            vocab_size=vocab,
            max_context=min(config.max_context or context, context),
            max_k=min(config.max_k, vocab, max_k),
            eos_token_ids=(),
            dtype="server's",
            device="server's",
            scoring=scoring,
            supports=supports,
            any_temperature=scoring == "full-vocab",
            settings=settings_digest(config),
        )
        return info, max(own_vocab, vocab)

    async def _method(self, model: str, config: TeacherConfig) -> tuple[str, int, int]:
        """(scoring, the server's vocabulary size or 0, its largest k)."""
        body: dict[str, Any] = {"model": model, "prompt": [1, 1], "max_tokens": 1, "temperature": 0}
        if await self._accepts_id(0):
            return "token-ids", await self._find_vocab(), config.max_k
        try:
            answer = await self._post(COMPLETIONS, {**body, "prompt_logprobs": -1}, 2)
            vocab = len(answer["choices"][0]["prompt_logprobs"][1])
            return "full-vocab", vocab, vocab
        except InvalidInput:
            pass
        low, high = 0, config.max_k + 1  # the largest prompt_logprobs that it accepts
        while high - low > 1:
            middle = (low + high) // 2
            try:
                await self._post(COMPLETIONS, {**body, "prompt_logprobs": middle}, 2)
                low = middle
            except InvalidInput:
                high = middle
        if not low:
            raise ConfigError("server_url: this vLLM server gives no prompt log-probs (--max-logprobs 0?)")
        return "top-k", 0, low

    async def _accepts_id(self, token_id: int) -> bool:
        try:
            await self._fixed_ids([0, 0], [[token_id]], 0)
            return True
        except InvalidInput:
            return False

    async def _find_vocab(self) -> int:
        """How many ids the server scores: the first that it refuses, by bisection (about 20 requests)."""
        low, high = 0, 1 << 21
        while high - low > 1:
            middle = (low + high) // 2
            if await self._accepts_id(middle):
                low = middle
            else:
                high = middle
        return high


def _announce(info: EngineInfo) -> None:
    if info.scoring == "full-vocab":
        log.warning("this vLLM server scores by sending its whole vocabulary as JSON: exact and very slow")
    if info.scoring == "top-k":
        log.warning(
            "this vLLM server cannot score given ids: support student is refused, K is at most %d and surplus ids "
            "are not masked; start it with --max-logprobs -1, or on a GPU with --enable-scale-out and "
            "VLLM_USE_V2_MODEL_RUNNER=1",
            info.max_k,
        )
    if not info.any_temperature:
        log.warning("this vLLM server scores at temperature 1 only")


def _read_topk(item: ScoreItem, rows: list[dict[str, dict[str, float]]]) -> Score:
    """Each position holds the top k and the sampled id, keyed by id."""
    sampled_T = np.array(
        [row[str(i)]["logprob"] for row, i in zip(rows, item.response_ids_T.tolist(), strict=True)], np.float32
    )
    k = item.scoring.k
    ids_TK, topk_TK = np.full((len(rows), k), PAD_ID, np.int32), np.zeros((len(rows), k), np.float32)
    for t, row in enumerate(rows):
        best = sorted(row.items(), key=lambda entry: entry[1]["rank"])[:k]
        ids_TK[t], topk_TK[t] = [int(i) for i, _ in best], [entry["logprob"] for _, entry in best]
    return score_from_columns(item, sampled_T, ids_TK, topk_TK)
