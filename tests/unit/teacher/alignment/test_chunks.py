"""Chunks against their definition, on random cuts of random byte strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgopd.teacher.alignment.chunks import chunk_sums, common_chunks, one_to_one

lengths = st.lists(st.integers(0, 4), min_size=1, max_size=30)


@given(lengths, st.data())
def test_every_chunk_is_whole_tokens_of_the_same_bytes_and_cannot_be_cut_further(ours: list[int], data: st.DataObject):
    total = sum(ours)
    if not total:
        ours, total = [*ours, 1], 1
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, total - 1)), max_size=total)) - {total})
    theirs = np.diff([0, *cuts, total]).tolist()
    chunk_T, chunk_U = common_chunks(np.array(ours), np.array(theirs))
    shared = (set(np.cumsum(ours)) & set(np.cumsum(theirs))) - {0}
    assert set(chunk_T) == set(chunk_U) == set(range(len(shared)))
    assert (np.diff(chunk_T) >= 0).all()
    assert (np.diff(chunk_U) >= 0).all()
    bytes_T, bytes_U = (chunk_sums(np.array(n), c, len(shared)) for n, c in ((ours, chunk_T), (theirs, chunk_U)))
    assert bytes_T.tolist() == bytes_U.tolist() == np.diff([0, *sorted(shared)]).tolist()
    alone_T, alone_U = one_to_one(chunk_T, chunk_U)
    expected = [c for c in range(len(shared)) if (chunk_T == c).sum() == (chunk_U == c).sum() == 1]
    assert chunk_T[alone_T].tolist() == chunk_U[alone_U].tolist() == expected


def test_tokens_without_bytes_belong_to_the_chunk_that_begins_where_they_stand():
    chunk_T, chunk_U = common_chunks(np.array([0, 2, 0, 1, 0]), np.array([1, 1, 1]))
    assert chunk_T.tolist() == [0, 0, 1, 1, 1]
    assert chunk_U.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2], [4]), ([], []), ([0], [0]), ([1], [])])
def test_sides_that_are_not_of_the_same_bytes_are_refused(ours: list[int], theirs: list[int]):
    with pytest.raises(ValueError, match="same bytes"):
        common_chunks(np.array(ours, dtype=int), np.array(theirs, dtype=int))
