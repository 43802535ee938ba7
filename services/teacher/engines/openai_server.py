"""Any completions server: the log-probs of the sampled tokens alone, which is all that such servers give.

For teachers that one cannot host. The gate is exact with them; the loss is on the sampled token (docs/objectives.md).
How the server wants to be asked is found out once, at start-up: token ids where it takes them. In text it answers for
its own way of splitting it, so each answer's tokens are compared with ours, and a rollout that it splits otherwise gets
an error instead of numbers for something else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from rgopd.common.errors import ConfigError, InvalidInput, RgopdError
from rgopd.teacher.engines import EngineFault, EngineInfo, SomeFailed, settings_digest
from rgopd.teacher.engines.columns import score_from_columns
from rgopd.teacher.engines.loop import LoopThread
from rgopd.teacher.engines.server_answers import DIALECTS, Dialect, PromptLogprobs, usable
from rgopd.teacher.engines.server_client import ServerClient
from rgopd.teacher.engines.server_text import ServerText
from rgopd.teacher.items import PAD_LOGPROB, Score, ScoreItem

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
"""How often a server that failed is asked whether it is back."""


class OpenaiServerEngine:
    """Sends each rollout as one request; the server batches."""

    concurrency = 2
    recovers = True

    def __init__(self, config: TeacherConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._server = ServerClient(config, transport)
        self._loop = LoopThread("openai-server")
        self._trouble, self._looked = "", 0.0
        try:
            self._text = ServerText.of(config.model) if config.model else None
            self._model, listed = self._loop.run(self._choose(config))
            self._dialect = self._loop.run(self._probe(config))
            self.info = self._info(config, listed)
        except BaseException:
            self.close()
            raise
        log.info("%s answers as %s", self._server.url, self.info.scoring)

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Score items of one `Scoring`, in order.

        Raises:
            SomeFailed: some of them have an error of their own.
        """
        results = self._loop.run(self._score_all(items))
        scores = [result for result in results if isinstance(result, Score)]
        if len(scores) < len(items):
            raise SomeFailed(results)
        return scores

    def trouble(self) -> str:
        """Why the last call got no answer, until the server answers again."""
        if self._trouble and time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            try:
                self._loop.run(self._server.get("/v1/models"))
                self._trouble = ""
            except EngineFault as error:
                self._trouble = str(error)
            except (ConfigError, InvalidInput):  # it answers; calls will say what is wrong
                self._trouble = ""
        return self._trouble

    def gpu_bytes(self) -> int:
        """0: the memory is someone else's."""
        return 0

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._server.close())
        self._loop.close()

    async def _score_all(self, items: Sequence[ScoreItem]) -> list[Score | RgopdError]:
        return list(await asyncio.gather(*map(self._score_one, items)))

    async def _score_one(self, item: ScoreItem) -> Score | RgopdError:
        try:
            values = await self._logprobs(self._dialect, item.input_ids.tolist())
            self._trouble = ""
            response = values[len(item.prompt_ids_C) :]
            sampled_T = np.array([PAD_LOGPROB if v is None else v for v in response], np.float32)
            none_TK = np.zeros((len(sampled_T), 0), np.int32)
            return score_from_columns(item, sampled_T, none_TK, none_TK.astype(np.float32))
        except RgopdError as error:
            if isinstance(error, EngineFault):
                self._trouble, self._looked = str(error), time.monotonic()
            return error

    async def _logprobs(self, dialect: Dialect, ids: list[int]) -> list[float | None]:
        """Of each of the ids, as the server's own model sees them.

        Raises:
            InvalidInput: the server refuses them, or splits their text otherwise.
            EngineFault: no answer, or one without log-probs.
        """
        prompt: Any = ids
        if dialect.reads_text:
            assert self._text is not None, "the probe has seen to it"
            prompt = self._text.text(ids)
        answer = await self._server.post(dialect.path, dialect.body(self._model, prompt))
        try:
            found = dialect.read(answer, None if dialect.reads_text else ids)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineFault(f"{self._server.url} answered without the prompt's log-probs: {error!r}") from error
        self._check_tokens(dialect, found, ids)
        if why := usable(found, len(ids)):
            raise EngineFault(f"{self._server.url} answered {why}")
        return found.values[: len(ids)]

    def _check_tokens(self, dialect: Dialect, found: PromptLogprobs, ids: list[int]) -> None:
        if self._text is not None and (why := self._text.difference(found.tokens, ids)):
            raise InvalidInput(f"{self._server.url} splits the text otherwise than the tokenizer in model: {why}")
        if dialect.reads_text and not any(found.tokens):
            raise InvalidInput(f"{self._server.url} does not say how it split the text; it cannot be checked")

    async def _choose(self, config: TeacherConfig) -> tuple[str, dict[str, Any]]:
        """The model's name at the server, and what the server tells about it."""
        try:
            answer = await self._server.get("/v1/models", retries=2)
            listed = {str(model["id"]): model for model in answer["data"]}
        except InvalidInput:
            listed = {}  # a server without that route
        except EngineFault as error:
            raise ConfigError(f"server_url: no server answers there: {error}") from error
        except (KeyError, TypeError) as error:
            raise ConfigError(f"server_url: {self._server.url}/v1/models is no list of models: {error!r}") from error
        name = config.server_model or (next(iter(listed)) if len(listed) == 1 else "")
        if not name:
            known = ", ".join(list(listed)[:8]) or "none that it lists"
            raise ConfigError(f"server_model: name the model at {self._server.url}; it has {known}")
        if listed and name not in listed:
            raise ConfigError(f"server_model: {self._server.url} has no {name!r}; it has {', '.join(list(listed)[:8])}")
        return name, listed.get(name, {})

    async def _probe(self, config: TeacherConfig) -> Dialect:
        """The first dialect that gives numbers for a short prompt.

        Raises:
            ConfigError: none does; says what each attempt was answered.
        """
        refused: list[str] = []
        for dialect in DIALECTS:
            if config.server_prompt != "auto" and dialect.reads_text != (config.server_prompt == "text"):
                continue
            if dialect.reads_text and self._text is None:
                refused.append(f"{dialect.name}: model names no tokenizer to write text with")
                continue
            try:
                await self._try(dialect)
                return dialect
            except (InvalidInput, EngineFault) as error:
                refused.append(f"{dialect.name}: {error}")
        raise ConfigError(
            f"server_url: {self._server.url} gives no log-probs of a prompt's tokens, without which a teacher cannot "
            "score what the student wrote. vLLM, SGLang, llama-cpp-python (logits_all) and hosted completions with "
            "echo and logprobs do; llama-server and chat completions do not. Asked: " + "; ".join(refused)
        )

    async def _try(self, dialect: Dialect) -> None:
        """The same ids twice, the second time with more behind them: what came before may not change."""
        short = self._text.probe() if self._text is not None else [1, 2, 1]
        if dialect.reads_text and self._text is not None:
            self._text.leads = False
            try:
                first = await self._logprobs(dialect, short)
            except InvalidInput:
                self._text.leads = True  # perhaps it puts its own BOS in front
                first = await self._logprobs(dialect, short)
        else:
            first = await self._logprobs(dialect, short)
        again = (await self._logprobs(dialect, short + short[-1:]))[: len(short)] if not dialect.reads_text else first
        worst = max(abs((a or 0.0) - (b or 0.0)) for a, b in zip(first, again, strict=True))
        if worst > 0.5:
            raise EngineFault(f"its log-probs of the same tokens differ by {worst:.2g} nats when more follows")

    def _info(self, config: TeacherConfig, listed: dict[str, Any]) -> EngineInfo:
        vocab = config.shared_vocab_size or (self._text.vocab_size if self._text is not None else 0)
        if not vocab:
            raise ConfigError("shared_vocab_size: set it, or name the teacher's tokenizer (folder or hub id) in model")
        told = int(listed.get("max_model_len") or 0) or (self._text.max_context if self._text is not None else 0)
        if not (context := min(config.max_context or told, told or config.max_context)):
            raise ConfigError(f"max_context: {self._server.url} does not tell how long a prompt may be; set it")
        return EngineInfo(
            engine="openai",
            model=self._model,
            revision=config.revision or f"{self._model}@{self._server.url}",
            vocab_size=vocab,
            max_context=context - 1,  # one token is always generated
            max_k=config.max_k,
            eos_token_ids=(),
            dtype="server's",
            device="server's",
            scoring=f"sampled ({self._dialect.name})",
            supports=("none",),
            any_temperature=False,
            settings=settings_digest(config),
            cacheable=bool(config.revision),  # whoever serves it may change it
            reads_text=self._dialect.reads_text,
        )
