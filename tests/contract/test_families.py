"""Families of models through every service: one of each way of being different (`make test-families` runs all)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.families.check import check_family
from tests.families.families import FAMILIES, QUICK
from tests.families.family import Family
from tests.families.table import PAGE, table
from tests.unit.trainer.lone import lone_rank


@pytest.fixture(scope="module", autouse=True)
def _rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_rank(tmp_path_factory.mktemp("rank")):
        yield


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in QUICK], ids=lambda family: family.name)
def test_equal_or_refused_by_name(family: Family, tmp_path: Path) -> None:
    check_family(family, tmp_path)


def test_no_causal_language_model_of_transformers_is_missing() -> None:
    """A release that brings new ones is tried before it is taken."""
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= {family.model_type for family in FAMILIES}


def test_every_quick_one_is_in_the_list_and_the_page_holds_the_list(repository: Path) -> None:
    assert {f.name for f in FAMILIES} >= QUICK
    assert table() in (repository / PAGE).read_text()
