"""What must hold of a family, whichever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.common.errors import ConfigError
from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.main import make_engine
from tests.families.build import composed, save_tiny, tiny_config
from tests.families.family import Family
from tests.families.pipeline import Found, run

TOLERANCE = 2e-4
"""Nats of a log-prob, or a weight's unit: rounding of float32 over other orders of sums."""


def check_family(family: Family, work: Path) -> Found | None:
    """Equal everywhere, or refused in one line. The process group of one rank must be up."""
    if family.refused:
        _check_refused(family, work / "model")
        return None
    found = run(save_tiny(work / "model", family.model_type, **family.config, **composed(family.parts)), work)
    assert found.packed == family.packs, found.why
    for name in ("teacher", "sampler", "drift", "self_loss", "packed_against_padded", "reloaded", "resampled"):
        assert abs(getattr(found, name)) < TOLERANCE, (name, found)
    assert found.moved > 1e-5, "two steps changed nothing"
    return found


def _check_refused(family: Family, folder: Path) -> None:
    """By its config.json alone: there are no weights that could be read."""
    tiny_config(family.model_type, **family.config, **composed(family.parts)).save_pretrained(folder)
    with pytest.raises(ConfigError) as told:
        make_engine(SamplerConfig(student=str(folder), device="cpu"))
    text = str(told.value)
    assert family.refused in text
    assert repr(family.model_type) in text
    assert "\n" not in text
