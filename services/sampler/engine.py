"""What every sampler engine does, and the records it speaks in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SampleSpec:
    """One rollout to sample. `seed` alone decides its random numbers, whatever else is in the batch."""

    prompt_ids_C: NDArray[np.int32]
    seed: int
    max_new_tokens: int = 0
    """Of this rollout alone, no more than the options'; 0: theirs."""

    def most(self, options: SamplingOptions) -> int:
        """Tokens that it may have."""
        return self.max_new_tokens or options.max_new_tokens


@dataclass(frozen=True)
class SamplingOptions:
    """temperature 0 is greedy. Log-probs are of the distribution at this temperature (1 when greedy), before
    top-p and top-k truncation, over the shared vocabulary."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    support_k: int


@dataclass(frozen=True)
class Sample:
    """A finished response, EOS included when the student ended it. No token at all: the engine gave it up."""

    response_ids_T: NDArray[np.int32]
    sampled_logprobs_T: NDArray[np.float32]
    support_ids_TK: NDArray[np.int32]
    finished: bool
    """False: cut at max_new_tokens."""


OnSample = Callable[[int, Sample], None]
"""(index into the specs, sample): called as each rollout ends, not when the batch ends."""


class SamplerEngine(Protocol):
    """A student that samples. Not thread-safe: one caller at a time."""

    tokenizer: Any
    """Of transformers."""
    max_context: int
    """Tokens of prompt and response together."""

    def generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
        """Sample all, reporting each as it ends. The same specs in the same order give the same samples."""

    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those of a published policy version."""

    def sleep(self) -> None:
        """Give the device's memory back; the weights wait in the host's."""

    def wake(self) -> None:
        """Take it again; `load_weights` and `generate` need it. Nothing to do for an engine that is awake."""

    def decode(self, response_ids_T: NDArray[np.int32]) -> str:
        """The response as the verifier reads it: without special tokens."""


class ContinuousEngine(SamplerEngine, Protocol):
    """An engine whose batch rows may come and go at every step."""

    kv_tokens: int
    """Tokens that its key-value cache holds."""

    def mixes(self, options: SamplingOptions) -> bool:
        """Whether rows with these options may be sampled beside those in work."""

    def admit(self, spec: SampleSpec, options: SamplingOptions) -> str:
        """Begin a rollout, under the weights held now; its name among those in work."""

    def step(self) -> list[tuple[str, Sample]]:
        """Compute for a while; the rollouts that ended meanwhile, by name."""

    def drop(self, names: Collection[str]) -> None:
        """Give up rollouts in work: `step` will not name them."""
