"""vLLM in this process: tensor parallelism, quantisation, prefix caching.

Student support goes through vLLM's fixed-id prompt log-probs (`prompt_logprob_token_ids`, V2 model runner, GPU):
one prefill returns exactly the wanted columns, the sampled id being one more. Without that runner the whole
vocabulary is asked for and gathered here: exact and slow, which /info and a warning say.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rgopd.common.errors import ConfigError
from rgopd.common.vllm_head import REFUSALS, one_line
from rgopd.teacher.engines import EngineFault, EngineInfo, settings_digest
from rgopd.teacher.engines.columns import join_own, score_from_columns, score_from_full, split_own
from rgopd.teacher.engines.loading import check_teacher_architecture, folder_digest
from rgopd.teacher.engines.loop import LoopThread
from rgopd.teacher.items import PAD_ID, Float, Int, Score, ScoreItem

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

FULL_VOCAB_CELLS = 20_000_000
"""Most rows x vocabulary of one request on the full-vocabulary path: vLLM keeps about 100 bytes a cell there. A longer
rollout is asked for position by position."""


class VllmEngine:
    """An AsyncLLM on an event loop of its own; vLLM batches what `score` sends it."""

    concurrency = 2  # while one batch's answers are read, the next one is in the model
    recovers = False

    def __init__(self, config: TeacherConfig) -> None:
        self._loop = LoopThread("vllm")
        self._ids = itertools.count()
        self._deterministic = config.deterministic
        try:
            self._llm: Any = self._loop.run(_start(config))
            self.info = self._describe(config)
            self._full_lock = asyncio.Lock()
            self._head = _Head(self._llm, self.info.vocab_size)
            self._loop.run(self._head.check())
            self._loop.run(self._try(config.model))
        except BaseException:
            self._loop.close()
            raise
        if self.info.scoring == "full-vocab":
            log.warning(
                "this vLLM has no fixed-id prompt log-probs (V2 model runner, GPU): student support is gathered "
                "from the whole vocabulary, exact and slow; rollouts of over %d tokens position by position, slower "
                "still. A run wants a GPU with that runner, or engine=transformers",
                FULL_VOCAB_CELLS // self.info.vocab_size,
            )

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Score items of one `Scoring`, in order."""
        return self._loop.run(self._score_all(items))

    def trouble(self) -> str:
        """Its engine is a process of its own, which can die; it does not come back within this one."""
        return "vLLM's engine died; its log says why" if self._llm.errored else ""

    def gpu_bytes(self) -> int:
        """0: the memory is another process's, whose own metrics have it."""
        return 0

    def close(self) -> None:
        """Stop vLLM and its processes."""
        self._llm.shutdown()
        self._loop.close()

    async def _score_all(self, items: Sequence[ScoreItem]) -> list[Score]:
        async with self._head.at(items[0].scoring.temperature):
            if self._deterministic:
                return [await self._score_one(item) for item in items]
            return list(await asyncio.gather(*map(self._score_one, items)))

    async def _score_one(self, item: ScoreItem) -> Score:
        if item.scoring.support == "student" and self.info.scoring == "full-vocab":
            async with self._full_lock:  # one at a time: each holds rows x vocabulary Python numbers
                return await self._full(item)
        if item.scoring.own_rows:
            named, top = split_own(item)
            return join_own(item, await self._score_one(named) if named else None, await self._score_one(top))
        # A cached prefix saves its forward but yields no rows; that is right as long as it ends within the
        # prompt. Where it reaches into the response (equal first ids, a replay) the cache is passed by.
        for skip_cache in (False, True):
            output = await self._generate(item, skip_cache)
            if (output.num_cached_tokens or 0) <= len(item.prompt_ids_C) - 1:
                score = _read(item, output)
                if score is not None:
                    return score
        raise EngineFault(f"vLLM returned no prompt log-probs for rollout {item.id!r}")

    async def _generate(self, item: ScoreItem, skip_cache: bool, **overrides: Any) -> Any:
        wanted = overrides or _columns_wanted(item)
        return await self._request(item.input_ids, item.id, skip_reading_prefix_cache=skip_cache, **wanted)

    async def _request(self, ids: Int, name: str, **wanted: Any) -> Any:
        """vLLM's answer to one prompt."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **wanted)
        prompt = TokensPrompt(prompt_token_ids=ids.tolist())
        final = None
        try:
            async for output in self._llm.generate(prompt, params, request_id=f"{name}-{next(self._ids)}"):
                final = output
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineFault(f"vLLM failed: {error}") from error
        return final

    async def _try(self, model: str) -> None:
        """A short prompt before it says that it is ready: what vLLM has no kernels for here shows only then."""
        try:
            await self._request(np.zeros(2, np.int32), "trial", prompt_logprobs=1, flat_logprobs=True)
        except EngineFault as error:
            self._llm.shutdown()
            raise ConfigError(f"engine: vLLM cannot compute {model} here: {error}; its log says why") from error

    async def _full(self, item: ScoreItem) -> Score:
        if item.tokens * self.info.vocab_size > FULL_VOCAB_CELLS:
            return await self._row_by_row(item)
        output = await self._generate(item, True, prompt_logprobs=self.info.vocab_size, flat_logprobs=True)
        ids_TN, logprobs_TN = _flat_rows(item, output.prompt_logprobs)
        full_TV = np.full((len(ids_TN), self.info.vocab_size), -np.inf, np.float32)
        np.put_along_axis(full_TV, ids_TN, logprobs_TN, axis=1)
        return score_from_full(item, full_TV, temperature=1.0)  # the head has applied it already

    async def _row_by_row(self, item: ScoreItem) -> Score:
        """One request a response token, over the prefix before it, which is cached: exact, in little memory, slow."""
        first, full_V = len(item.prompt_ids_C), np.empty(self.info.vocab_size, np.float32)
        rows: list[Score] = []
        for t in range(len(item.response_ids_T)):
            prefix = item.input_ids[: first + t]
            output = await self._request(prefix, item.id, logprobs=self.info.vocab_size, flat_logprobs=True)
            flat = output.outputs[0].logprobs
            full_V.fill(-np.inf)
            full_V[np.array(flat.token_ids, np.int64)] = np.array(flat.logprobs, np.float32)
            rows.append(score_from_full(_row(item, t), full_V[None], temperature=1.0))
        columns = [np.concatenate(column) for column in zip(*map(_columns, rows), strict=True)]
        return Score(*columns)

    def _describe(self, config: TeacherConfig) -> EngineInfo:
        vllm_config, model = self._llm.vllm_config, self._llm.model_config
        own_vocab = int(model.get_vocab_size())
        if config.shared_vocab_size > own_vocab:
            raise ConfigError(f"shared_vocab_size: {config.shared_vocab_size} is more than the model's {own_vocab} ids")
        vocab = config.shared_vocab_size or own_vocab
        context = int(model.max_model_len) - 1  # vLLM always generates one id after the prompt
        if config.max_context > context:
            raise ConfigError(f"max_context: {config.max_context} is more than {context}; raise vllm.max_model_len")
        is_folder = Path(config.model).is_dir()
        eos = model.try_get_generation_config().get("eos_token_id", getattr(model.hf_text_config, "eos_token_id", None))
        revision = folder_digest(Path(config.model)) if is_folder else getattr(model.hf_config, "_commit_hash", None)
        return EngineInfo(
            engine="vllm",
            model=config.model,
            revision=str(revision or config.revision or "unknown"),
            vocab_size=vocab,
            max_context=config.max_context or context,
            max_k=min(config.max_k, vocab),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(vllm_config.device_config.device_type),
            scoring="token-ids" if vllm_config.use_v2_model_runner else "full-vocab",
            settings=settings_digest(config),
        )


class _Head:
    """The temperature that the workers' heads are set to. Batches at one temperature overlap, others wait."""

    def __init__(self, llm: Any, vocab_size: int) -> None:
        self._llm = llm
        self._vocab = vocab_size
        self._temperature: float | None = None
        self._running = 0
        self._idle = asyncio.Condition()

    async def check(self) -> None:
        """Refuse a model whose head cannot be set."""
        counts = await self._llm.collective_rpc("set_head", args=(1.0, self._vocab))
        if not all(counts):
            raise ConfigError("this architecture has no vLLM LogitsProcessor; use engine=transformers")
        self._temperature = 1.0

    @asynccontextmanager
    async def at(self, temperature: float) -> AsyncIterator[None]:
        async with self._idle:
            await self._idle.wait_for(lambda: self._running == 0 or self._temperature == temperature)
            if self._temperature != temperature:
                await self._llm.collective_rpc("set_head", args=(temperature, self._vocab))
                self._temperature = temperature
            self._running += 1
        try:
            yield
        finally:
            async with self._idle:
                self._running -= 1
                self._idle.notify_all()


async def _start(config: TeacherConfig) -> Any:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(f"engine: vllm is not installed here ({error}); pip install 'rgopd[vllm]'") from error
    if not config.model:
        raise ConfigError("model: give a Hugging Face folder or id, e.g. --set model=Qwen/Qwen2.5-14B-Instruct")
    check_teacher_architecture(config)
    arguments: dict[str, Any] = {
        "model": config.model,
        "revision": config.revision or None,
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "quantization": config.quantization or None,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "enable_prefix_caching": not config.deterministic,
        "max_logprobs": -1,  # requests are held to max_k by this service
        "worker_extension_cls": "rgopd.common.vllm_head.VllmHead",
        **config.vllm,
    }
    if config.dtype != "float32" and not config.quantization:
        # Logits rounded to bfloat16 cost up to 0.06 a log-prob; the head alone in float32 costs little.
        arguments["hf_overrides"] = {"head_dtype": "float32", **arguments.get("hf_overrides", {})}
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except REFUSALS as error:
        raise ConfigError(f"engine: vLLM cannot hold {config.model} with these settings: {one_line(error)}") from error


def _row(item: ScoreItem, t: int) -> ScoreItem:
    """The rollout's response token `t` alone."""
    support_TK = None if item.support_ids_TK is None else item.support_ids_TK[t : t + 1]
    return replace(item, response_ids_T=item.response_ids_T[t : t + 1], support_ids_TK=support_TK)


def _columns(score: Score) -> list[np.ndarray[Any, Any]]:
    columns = (score.sampled_logprobs_T, score.topk_ids_TK, score.topk_logprobs_TK, score.tail_logprob_T)
    return [column for column in columns if column is not None]


def _columns_wanted(item: ScoreItem) -> dict[str, Any]:
    if item.scoring.support == "student":
        assert item.support_ids_TK is not None, "validated before it was queued"
        ids = np.concatenate([_named(item.support_ids_TK, item.response_ids_T), item.response_ids_T[:, None]], axis=1)
        return {"prompt_logprob_token_ids": ids, "prompt_logprob_start": len(item.prompt_ids_C) - 1}
    return {"prompt_logprobs": item.scoring.k, "flat_logprobs": True}


def _named(support_TK: Int, response_T: Int) -> Int:
    """The support with the sampled id in place of pads, which vLLM does not know; `score_from_columns` masks them."""
    return np.where(support_TK == PAD_ID, response_T[:, None], support_TK)


def _read(item: ScoreItem, output: Any) -> Score | None:
    if item.scoring.support == "student":
        columns: Float | None = output.prompt_token_id_logprobs
        if columns is None:
            return None
        assert item.support_ids_TK is not None
        return score_from_columns(item, columns[:, -1], item.support_ids_TK, columns[:, :-1])
    ids_TN, logprobs_TN = _flat_rows(item, output.prompt_logprobs)
    # Column 0 is the sampled id, whatever its rank; then the top k, best first.
    return score_from_columns(item, logprobs_TN[:, 0], ids_TN[:, 1:].astype(np.int32), logprobs_TN[:, 1:])


def _flat_rows(item: ScoreItem, flat: Any) -> tuple[np.ndarray[Any, Any], Float]:
    """ids and log-probs [T, N] of the response rows of vLLM's FlatLogprobs (position 0 has none)."""
    rows, start = len(item.response_ids_T), flat.start_indices[len(item.prompt_ids_C)]
    end = flat.end_indices[item.tokens - 1]
    ids = np.array(flat.token_ids[start:end], np.int64).reshape(rows, -1)
    return ids, np.array(flat.logprobs[start:end], np.float32).reshape(rows, -1)
