"""What an item of any kind may say beside its own fields."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rgopd.verifier.sandbox.limits import Limits

OnTruncated = Literal["grade", "failed", "error"]
"""What a response cut at the length limit gets: judged as it is, `failed`, or `error` (no reward)."""


class LimitOverrides(BaseModel):
    """An item's `limits`: each may lower or raise the configured default, up to the configured maximum."""

    model_config = ConfigDict(extra="forbid")

    cpu_s: float | None = Field(None, gt=0, le=3600)
    wall_s: float | None = Field(None, gt=0, le=3600)
    memory_mb: int | None = Field(None, ge=32, le=1 << 16)
    processes: int | None = Field(None, ge=1, le=4096)
    file_mb: int | None = Field(None, ge=1, le=1 << 14)
    output_bytes: int | None = Field(None, ge=1, le=1 << 28)

    def over(self, default: Limits, maximum: Limits) -> Limits:
        """The limits to use."""
        asked = {k: v for k, v in self.model_dump().items() if v is not None}
        if "cpu_s" in asked and "wall_s" not in asked:
            asked["wall_s"] = max(default.wall_s, 4 * asked["cpu_s"])
        merged = {**default.as_dict(), **asked}
        return Limits(**{k: min(v, getattr(maximum, k)) for k, v in merged.items()})


class Spec(BaseModel):
    """Base of the fields of a kind. Unknown fields are errors, so that a misspelt `tests` is not ignored."""

    model_config = ConfigDict(extra="forbid", strict=False)

    limits: LimitOverrides | None = None
    truncated: bool = Field(False, description="The response was cut at the length limit.")
    on_truncated: OnTruncated | None = Field(None, description="None: as the service is configured.")
