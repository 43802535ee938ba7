"""Settings of how rollouts are made."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from pydantic import Field

from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.common.parts import Part
from rgopd.common.tool_forms import Calls


class DomainSampling(Part):
    """What a domain's prompts are sampled with where it is not `sampling`'s own."""

    word_key: ClassVar[str] = "temperature"

    temperature: float | None = Field(None, gt=0, description="null: sampling.temperature.")
    max_new_tokens: int | None = Field(None, ge=1, description="null: sampling.max_new_tokens.")


class SamplingConfig(Part):
    """How rollouts are made."""

    prompts_per_step: int = Field(32, ge=1, description="Groups a step.")
    n: int = Field(8, ge=1, description="Rollouts in a group.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by it; the teacher's and the loss's too.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling; 1: off.")
    top_k: int = Field(0, ge=0, description="0: off.")
    max_new_tokens: int = Field(1024, ge=1, description="Longest response; longer ones are cut and marked truncated.")
    domains: dict[str, DomainSampling] = Field(
        {},
        description="By a prompt's domain (its kind, where neither dataset nor row names one): another temperature "
        "or length, e.g. {code: {temperature: 0.6, max_new_tokens: 2048}}. Each rollout is sampled, scored and trained "
        "at its own.",
    )
    groups_per_request: int = Field(
        8, ge=1, description="Groups sampled as one batch. Part of the numbers: float rounding depends on it."
    )

    def temperature_of(self, domain: str) -> float:
        """Of a domain's rollouts."""
        own = self.domains.get(domain)
        return self.temperature if own is None or own.temperature is None else own.temperature

    def length_of(self, domain: str) -> int:
        """Most tokens of a response to a domain's prompts."""
        own = self.domains.get(domain)
        return self.max_new_tokens if own is None or own.max_new_tokens is None else own.max_new_tokens

    def check_domains(self, known: Collection[str]) -> None:
        """Raises ConfigError where `domains` names one that no prompt is of."""
        for name in self.domains.keys() - set(known):
            hint = did_you_mean(name, known)
            raise ConfigError(
                f"sampling.domains: no prompt is of the domain {name!r}{hint}; the data has {', '.join(sorted(known))}"
            )

    @property
    def longest(self) -> int:
        """The longest response of any domain."""
        return max([self.max_new_tokens, *(d.max_new_tokens or 0 for d in self.domains.values())])


class TurnsConfig(Part):
    """Bounds of rollouts with an environment, which are conversations (docs/environments.md)."""

    word_key: ClassVar[str] = "max_turns"

    max_turns: int = Field(8, ge=1, description="The student's turns; sampling.max_new_tokens bounds each of them.")
    max_total_tokens: int = Field(
        4096, ge=1, description="Tokens after the prompt, observations included; no turn begins beyond them."
    )
    max_observation_tokens: int = Field(1024, ge=1, description="Longer observations are cut.")
    tool_calls: Calls = Field(
        "auto", description="The form in which the student calls tools; auto: as its chat template has it."
    )
