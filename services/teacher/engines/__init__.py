"""Engines: the one thing that holds a model. Every engine passes tests/contract/test_teacher_conformance.py.

In: `ScoreItem`s that `rgopd.teacher.validation` has checked, as many as fit the token budget.
Out: a `Score` each: log-probs in nats at the run's temperature over the shared vocabulary, float32.
Not imported: the queue, the doors, the codec. An engine knows neither HTTP nor Redis; torch and vLLM are imported by
the file that needs them, so that `make_engine` costs nothing that is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rgopd.common.errors import ConfigError, RgopdError
from rgopd.teacher.items import Score, ScoreItem, SupportKind

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig


class EngineFault(RgopdError):
    """The engine broke on valid input (out of memory, NaN logits, a lost vLLM process). Another attempt may work."""

    kind = "engine"


class SomeFailed(EngineFault):
    """Some rollouts of a batch have a score and some an error of their own; `results` are in the order asked."""

    def __init__(self, results: Sequence[Score | RgopdError]) -> None:
        errors = [result for result in results if isinstance(result, RgopdError)]
        super().__init__(f"{len(errors)} of {len(results)} rollouts failed; the first: {errors[0]}")
        self.results = results


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine holds; shown by /info and used to check requests."""

    engine: str
    model: str
    revision: str
    """Changes whenever the numbers may: a commit hash, a digest of the weight files, or a policy version."""
    vocab_size: int
    """Ids 0..vocab_size-1 are shared with the student; the model's surplus ids are masked before the softmax."""
    max_context: int
    """Longest prompt + response."""
    max_k: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    device: str
    scoring: str
    """Which method makes the numbers: "gathered" (full float32 logits at hand), "token-ids", "full-vocab", "top-k"."""
    supports: tuple[SupportKind, ...] = ("student", "teacher", "none")
    any_temperature: bool = True
    """False: only temperature 1."""
    settings: str = ""
    """A digest of the settings that change the numbers of the same weights (`settings_digest`)."""
    cacheable: bool = True
    """False: `revision` does not name the weights well enough to find a score again by it."""
    reads_text: bool = False
    """It is asked in text: it can score ids only as its own tokenizer would write them."""


def settings_digest(config: TeacherConfig) -> str:
    """Differs where the same weights may give other numbers: quantisation, vLLM's arguments, another vLLM, one by one.

    vLLM has too many arguments to tell which of them matter, so all count.
    """
    settings: dict[str, Any] = {
        "quantization": config.quantization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "vllm": config.vllm,
        "server_url": config.server_url,
        "deterministic": config.deterministic,
    }
    if config.deterministic:  # equal bits are promised then, and these change the order of sums
        settings |= {"threads": config.threads, "head_chunk_rows": config.head_chunk_rows}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def precision(dtype: str) -> str:
    """What a model's dtype means for its log-probs, for people who read /info; docs/teacher.md has the measurements."""
    if dtype == "float32":
        return "float32 throughout: within 1e-4 nats of another float32 forward"
    if dtype not in ("bfloat16", "float16"):
        return f"{dtype}: as the server that holds the model computes"
    return (
        f"{dtype} decoder, float32 head and sums: log-probs may be up to 0.07 nats off a float32 forward of the "
        "same weights; temperature, tail and top-k add nothing to that"
    )


class Engine(Protocol):
    """A blocking scorer. `score` is called from `concurrency` batching threads at once, never more."""

    @property
    def info(self) -> EngineInfo:
        """What this engine holds now."""
        ...

    @property
    def concurrency(self) -> int:
        """How many `score` calls may run at the same time."""
        ...

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Score items of one `Scoring`, in order.

        Raises:
            EngineFault: the engine broke; nothing is said about any of the items.
            SomeFailed: some of them failed.
        """
        ...

    @property
    def recovers(self) -> bool:
        """Whether `trouble` may pass by itself, as that of a server elsewhere does. If not, the process has to go."""
        ...

    def trouble(self) -> str:
        """Why it cannot score now; empty: it can. Asked every second, beside `score`."""
        ...

    def gpu_bytes(self) -> int:
        """GPU memory held, 0 where there is none or it is another process's."""
        ...

    def close(self) -> None:
        """Free the model. No call follows."""
        ...


def make_engine(config: TeacherConfig, redis: Any = None) -> Engine:
    """Load the configured engine; imports only that engine's libraries. A self-teacher needs the run's Redis.

    Raises:
        ConfigError: an unknown engine, or its library or model is missing.
    """
    if config.source != "checkpoint":
        if config.engine != "transformers" or redis is None:
            raise ConfigError(f"source: {config.source} needs engine=transformers and redis_url, to follow the student")
        from rgopd.teacher.engines.self_teacher import SelfTeacherEngine, latest_policy

        return SelfTeacherEngine(config, latest_policy(redis, config.run_id))
    match config.engine:
        case "transformers":
            from rgopd.teacher.engines.transformers import TransformersEngine

            return TransformersEngine.load(config)
        case "vllm":
            from rgopd.teacher.engines.vllm import VllmEngine

            return VllmEngine(config)
        case "vllm-server":
            from rgopd.teacher.engines.vllm_server import VllmServerEngine

            return VllmServerEngine(config)
        case "openai":
            from rgopd.teacher.engines.openai_server import OpenaiServerEngine

            return OpenaiServerEngine(config)
        case unknown:
            raise ConfigError(f"engine: {unknown!r} is not known; use transformers, vllm, vllm-server or openai")
