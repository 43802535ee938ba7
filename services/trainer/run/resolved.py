"""The configuration in force, as a run's folder keeps it."""

from __future__ import annotations

from typing import Any

import yaml

from rgopd.trainer.config import TrainConfig


def resolved(config: TrainConfig) -> dict[str, Any]:
    """The configuration in force, defaults included; secrets are left out."""
    settings = config.model_dump(mode="json", exclude={"redis_url", "blob_url"})
    settings["gate"] = config.gate_config().model_dump(mode="json")
    return settings


def write_resolved(config: TrainConfig) -> None:
    """`resolved` as config.yaml of the run's folder."""
    config.output_dir.mkdir(parents=True, exist_ok=True)
    (config.output_dir / "config.yaml").write_text(yaml.safe_dump(resolved(config), sort_keys=False))
