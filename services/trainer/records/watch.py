"""Settings of what is kept for people who watch. None of them changes a number of the run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rgopd.common.settings import Part


class KeepConfig(Part):
    """What is kept of rollouts in `<run>/rollouts` (docs/run-folder.md, decisions/122)."""

    rollouts: int = Field(32, ge=0, description="Rollouts of a step, in whole groups drawn by the seed; 0: none.")
    dropped: int = Field(8, ge=0, description="Rollouts of other groups that were not trained on, with the reason.")
    every: int = Field(1, ge=1, description="Steps between steps of which anything is kept.")
    top_k: int = Field(8, ge=0, le=1024, description="Ids a token that are named, the student's likeliest first.")
    tokens: int = Field(32_768, ge=0, description="Tokens a step and rank that have figures; texts are kept whole.")
    newest: int = Field(50, ge=1, description="Steps that are thinned out last.")
    max_mb: int = Field(256, ge=1, description="MiB of all steps; over it older steps are thinned out.")


class WatchConfig(Part):
    """The trainer's side of watching."""

    keep: KeepConfig = KeepConfig()
    progress: Literal["auto", "live", "lines", "off"] = Field(
        "auto", description="What `up`, `demo` and `train` print; auto: a live display on a terminal, elsewhere lines."
    )
    progress_s: float = Field(10.0, gt=0, description="Seconds between two lines.")
    metrics_port: int = Field(0, ge=0, le=65_535, description="Prometheus metrics of rank 0 at /metrics; 0: none.")
    metrics_host: str = Field("127.0.0.1", description="Where that listens.")
