"""Until a teacher's server that belongs to someone else is up: it may load for as long as we do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

from rgopd.common.errors import ConfigError

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

ELSEWHERE = ("vllm-server", "openai")
"""Engines whose weights are in another process, under names of its own."""
_BEHIND_A_PROXY = (502, 503, 504)
ASK_S, TELL_S = 1.0, 30.0


def unanswered(config: TeacherConfig, timeout_s: float = 5.0) -> str:
    """Why the server does not answer yet; empty once it does, and for engines that have none.

    Any answer but a proxy's is one: what it refuses is the engine's to word.
    """
    if config.engine not in ELSEWHERE or not config.server_url.startswith(("http://", "https://")):
        return ""
    try:
        code = httpx.get(
            f"{config.server_url.rstrip('/').removesuffix('/v1')}/v1/models", timeout=timeout_s
        ).status_code
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return f"{type(error).__name__} {error}".rstrip()
    return f"it answered {code}" if code in _BEHIND_A_PROXY else ""


def await_server(config: TeacherConfig, limit_s: float, tell: Callable[[str], None], ended: threading.Event) -> None:
    """Return once the server answers, or `ended` is set.

    Args:
        limit_s: how long it may take.
        tell: hears what is waited for.

    Raises:
        ConfigError: it did not answer in time.
    """
    deadline, next_word = time.monotonic() + limit_s, 0.0
    while why := unanswered(config):
        if time.monotonic() >= deadline:
            raise ConfigError(f"server_url: no server answers at {config.server_url} after {limit_s:.0f} s: {why}")
        tell(text := f"waiting for the server at {config.server_url}: {why}")
        if time.monotonic() >= next_word:
            next_word = time.monotonic() + TELL_S
            log.warning("%s", text)
        if ended.wait(min(ASK_S, limit_s / 4)):
            return
