"""The ways in which completion servers give the log-probs of a prompt's tokens: what to ask, and how to read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Value = float | None
"""A log-prob in nats; None for the first token, which nothing predicts."""
Token = int | str | None
"""Which token a log-prob is of, as the server names it: its id, its text, or not at all."""


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Of every token of a prompt, and perhaps of those that were generated after it."""

    values: list[Value]
    tokens: list[Token]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of asking."""

    name: str
    path: str
    reads_text: bool
    body: Callable[[str, Any], dict[str, Any]]
    """Request body of (the model's name, a prompt: ids or text)."""
    read: Callable[[Any, Sequence[int] | None], PromptLogprobs]
    """The answer's numbers, given the ids that were asked (None for text).
    Raises KeyError, IndexError, TypeError or ValueError where the answer has none."""


def _completion(model: str, prompt: Any, **more: Any) -> dict[str, Any]:
    # One token has to be generated: many servers know no 0. At temperature 1 whatever scales by it changes nothing.
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 1.0, "stream": False, **more}


def _read_prompt_logprobs(answer: Any, ids: Sequence[int] | None) -> PromptLogprobs:
    rows = answer["choices"][0]["prompt_logprobs"]
    if ids is None or len(rows) != len(ids):
        raise ValueError(f"{len(rows)} rows of prompt_logprobs for {len(ids or ())} ids")
    values: list[Value] = [None]
    values += [float(row[str(i)]["logprob"]) for row, i in zip(rows[1:], list(ids)[1:], strict=True)]
    return PromptLogprobs(values, list(ids))


def _read_echo(answer: Any, ids: Sequence[int] | None) -> PromptLogprobs:
    found = answer["choices"][0]["logprobs"]
    values, tokens = found["token_logprobs"], found.get("token_ids") or found.get("tokens") or []
    tokens = list(tokens) if len(tokens) == len(values) else [None] * len(values)
    return PromptLogprobs([None if v is None else float(v) for v in values], tokens)


def _read_generate(answer: Any, ids: Sequence[int] | None) -> PromptLogprobs:
    rows = (answer[0] if isinstance(answer, list) else answer)["meta_info"]["input_token_logprobs"]
    return PromptLogprobs([None if row[0] is None else float(row[0]) for row in rows], [int(row[1]) for row in rows])


DIALECTS = (
    Dialect(
        "prompt_logprobs",
        "/v1/completions",
        False,
        lambda model, prompt: _completion(model, prompt, prompt_logprobs=1),
        _read_prompt_logprobs,
    ),
    Dialect(
        "generate",
        "/generate",
        False,
        lambda _, prompt: {
            "input_ids": prompt,
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        },
        _read_generate,
    ),
    Dialect(
        "echo-ids",
        "/v1/completions",
        False,
        lambda model, prompt: _completion(model, prompt, echo=True, logprobs=1),
        _read_echo,
    ),
    Dialect(
        "echo-text",
        "/v1/completions",
        True,
        lambda model, prompt: _completion(model, prompt, echo=True, logprobs=1),
        _read_echo,
    ),
)
"""vLLM; SGLang's own route; the completions protocol with ids, and with text. The more that is checked, the earlier."""


def usable(found: PromptLogprobs, count: int) -> str:
    """Why these cannot be the log-probs of `count` tokens and at most one more; empty: they can."""
    if not count <= len(found.values) <= count + 1:
        return f"{len(found.values)} log-probs for {count} tokens"
    for value in found.values[1:count]:
        if value is None or math.isnan(value) or value > 1e-3:
            return f"{value} is no log-prob"
    return ""
