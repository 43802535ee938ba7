"""Settings of `rgopd watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from rgopd.common.settings import ServiceSettings


class WatchConfig(ServiceSettings):
    """Section `watch`."""

    runs: list[Path] = Field(
        default_factory=lambda: [Path("runs")], description="Run folders, or folders of run folders."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    poll_s: float = Field(1.0, gt=0, description="How often files and Redis are looked at while somebody watches.")
    drain_s: float = Field(2.0, ge=0, description="How long a stopping page finishes what it is sending.")
    max_body_mb: int = Field(1, ge=1, le=4096, description="The page takes no bodies worth naming.")
    max_clients: int = Field(32, ge=1, description="Open pages; another one is told to come back.")
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Host names, besides this machine's own, by which a browser may ask a page without a token, e.g. "
        "that of a proxy in front of it.",
    )
