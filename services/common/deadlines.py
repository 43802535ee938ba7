"""How long a wait may last: as long as there is progress, and between two signs of it in proportion to the tokens.

Every deadline on the path of a rollout is a base, for responses of up to `USUAL_TOKENS`, and grows with longer ones
(docs/decisions/116). At the defaults a response may come as slowly as three or four tokens a second.
"""

from __future__ import annotations

USUAL_TOKENS = 1024
"""Response tokens that the bases are for: `sampling.max_new_tokens` as it is when nobody sets it."""

USUAL_ROWS = 64
"""Rows of one request that a sampler computes at once without taking longer for it."""

USUAL_CALL_TOKENS = 1 << 16
"""Prompt and response tokens of one HTTP call that the bases of clients are for."""


def for_response(base_s: float, tokens: int, rows: int = 1) -> float:
    """`base_s`, for responses of at most `tokens` tokens of which one request holds `rows`; in seconds."""
    return base_s * max(1.0, tokens / USUAL_TOKENS) * max(1.0, rows / USUAL_ROWS)


def for_call(base_s: float, tokens: int) -> float:
    """`base_s`, for a call whose items hold `tokens` tokens together; in seconds."""
    return base_s * max(1.0, tokens / USUAL_CALL_TOKENS)
