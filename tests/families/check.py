"""What must hold of a family, whichever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.common.errors import ConfigError
from tests.families.build import composed, save_tiny
from tests.families.families import Family
from tests.families.pipeline import Found, run

TOLERANCE = 2e-4
"""Nats of a log-prob, or a weight's unit: rounding of float32 over other orders of sums."""


def check_family(family: Family, work: Path) -> Found | None:
    """Equal everywhere, or refused in one line. The process group of one rank must be up."""
    folder = save_tiny(work / "model", family.model_type, **family.config, **composed(family.parts))
    if family.refused:
        with pytest.raises(ConfigError) as told:
            run(folder, work)
        text = str(told.value)
        assert family.refused in text
        assert family.model_type in text
        assert "\n" not in text
        return None
    found = run(folder, work)
    assert found.packed == family.packs, found.why
    for name in ("teacher", "sampler", "drift", "self_loss", "packed_against_padded", "reloaded", "resampled"):
        assert abs(getattr(found, name)) < TOLERANCE, (name, found)
    assert found.moved > 1e-5, "two steps changed nothing"
    return found
