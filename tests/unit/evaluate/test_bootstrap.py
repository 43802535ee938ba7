"""The paired bootstrap: exact where it can be worked out, and honest about what is not paired."""

from __future__ import annotations

import numpy as np
import pytest

from rgopd.evaluate.bootstrap import holm, paired


def documents(values: list[float], weight: float = 1.0) -> dict[str, tuple[float, float]]:
    return {f"d{i:04d}": (v * weight, weight) for i, v in enumerate(values)}


def test_the_interval_is_that_of_the_mean_of_differences() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 400).astype(float)
    better = np.where(rng.random(400) < 0.2, 1.0, base)
    found = paired(documents(list(better)), documents(list(base)))
    assert found is not None
    differences = 100 * (better - base)
    assert found.delta == pytest.approx(differences.mean())
    spread = differences.std() / 20  # of the mean of 400
    assert found.low == pytest.approx(differences.mean() - 1.96 * spread, abs=0.25)
    assert found.high == pytest.approx(differences.mean() + 1.96 * spread, abs=0.25)
    assert found.significant
    assert found.documents == 400


def test_pairing_is_what_makes_small_differences_visible() -> None:
    """Two rows that differ on 12 documents of 1,000, always the same way: unpaired this would be lost in the noise."""
    base = [float(i % 2) for i in range(1000)]
    better = list(base)
    for i in range(0, 24, 2):
        better[i] = 1.0
    found = paired(documents(better), documents(base))
    assert found is not None
    assert found.delta == pytest.approx(1.2)
    assert found.low > 0
    assert found.p < 0.001


def test_equal_rows_do_not_differ() -> None:
    found = paired(documents([1.0, 0.0] * 50), documents([1.0, 0.0] * 50))
    assert found is not None
    assert (found.delta, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert not found.significant


def test_a_document_counts_by_its_weight() -> None:
    """IFEval by instruction: two of three instructions followed, then one of one."""
    row = {"a": (2.0, 3.0), "b": (1.0, 1.0)}
    other = {"a": (1.0, 3.0), "b": (1.0, 1.0)}
    found = paired(row, other)
    assert found is not None
    assert found.delta == pytest.approx(25.0)


def test_other_documents_are_not_paired() -> None:
    assert paired(documents([1.0, 0.0, 1.0]), documents([1.0, 0.0])) is None
    assert paired({"x": (1.0, 1.0), "y": (0.0, 1.0)}, documents([1.0, 0.0])) is None
    assert paired(documents([1.0]), documents([0.0])) is None


def test_the_same_seed_draws_the_same() -> None:
    row, other = documents([i * i % 83 / 83 for i in range(80)]), documents([i * i % 31 / 31 for i in range(80)])
    assert paired(row, other, seed=3) == paired(row, other, seed=3)
    assert paired(row, other, seed=3) != paired(row, other, seed=4)


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_level_holds_where_nothing_differs() -> None:
    """Of 200 pairs of equally good rows about 5% come out significant; 12% would be a broken test."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        a, b = (rng.random(80) < 0.5).astype(float), (rng.random(80) < 0.5).astype(float)
        found = paired(documents(list(a)), documents(list(b)), draws=400, seed=seed)
        assert found is not None
        hits += found.significant
    assert hits <= 24
