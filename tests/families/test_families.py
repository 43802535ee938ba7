"""All families (`make test-families`); those marked quick run in `make test`, from tests/contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.families.check import check_family
from tests.families.families import FAMILIES
from tests.families.family import Family
from tests.families.table import PAGE, table
from tests.unit.trainer.lone import lone_rank


@pytest.fixture(scope="module", autouse=True)
def _rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_rank(tmp_path_factory.mktemp("rank")):
        yield


@pytest.mark.filterwarnings(
    "ignore:`past_key_values` is deprecated:FutureWarning"
)  # said of its own code by transformers
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_equal_or_refused_by_name(family: Family, tmp_path: Path) -> None:
    check_family(family, tmp_path)


def test_the_page_holds_the_list(repository: Path) -> None:
    """`python -m tests.families.table` writes it anew."""
    assert table() in (repository / PAGE).read_text()
