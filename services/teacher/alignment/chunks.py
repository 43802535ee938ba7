"""Two token sequences over the same bytes, cut at the bytes where a token ends on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def common_chunks(lengths_T: NDArray[Any], lengths_U: NDArray[Any]) -> tuple[Ints, Ints]:
    """The aligned chunk of every token: the finest cut of which each piece is whole tokens on both sides.

    Args:
        lengths_T: bytes of each of one side's tokens, in order; 0 is allowed.
        lengths_U: the other side's; the same sum, over 0.

    Returns:
        int64 ``[T]`` and ``[U]``, counting up from 0, every number on both sides. A token without bytes belongs to the
        chunk that begins where it stands, at the end to the last one.

    Raises:
        ValueError: the sides do not cover the same bytes, or none.
    """
    ends_T, ends_U = np.cumsum(lengths_T, dtype=np.int64), np.cumsum(lengths_U, dtype=np.int64)
    if not len(ends_T) or not len(ends_U) or ends_T[-1] != ends_U[-1] or not ends_T[-1]:
        raise ValueError(f"{ends_T[-1:]} and {ends_U[-1:]} bytes: both sides must cover the same bytes, one at least")
    shared_B = np.intersect1d(ends_T, ends_U)
    shared_B = shared_B[shared_B > 0]

    def chunk(ends: Ints, lengths: NDArray[Any]) -> Ints:
        number: Ints = np.minimum(np.searchsorted(shared_B, ends - lengths, side="right"), len(shared_B) - 1)
        return number

    return chunk(ends_T, lengths_T), chunk(ends_U, lengths_U)


def chunk_sums(values_U: NDArray[Any], chunk_U: Ints, chunks: int) -> NDArray[np.float64]:
    """Sums in float64 of the values of each chunk: the log-likelihood of its bytes, given log-probs of its tokens."""
    sums_C = np.zeros(chunks, dtype=np.float64)
    np.add.at(sums_C, chunk_U, values_U)
    return sums_C


def chunk_starts(chunk_T: Ints, chunk_U: Ints) -> Ints:
    """Positions of the first token of every chunk on both sides: int64 ``[C, 2]``. There both have seen the same bytes,
    except for tokens without bytes."""
    first = [np.unique(chunk, return_index=True)[1] for chunk in (chunk_T, chunk_U)]
    return np.stack(first, axis=1)


def one_to_one(chunk_T: Ints, chunk_U: Ints) -> tuple[Ints, Ints]:
    """Positions of the tokens that are alone in their chunk on both sides, paired: int64 ``[M]`` twice."""
    count = int(max(chunk_T.max(initial=-1), chunk_U.max(initial=-1))) + 1
    alone_C = (np.bincount(chunk_T, minlength=count) == 1) & (np.bincount(chunk_U, minlength=count) == 1)
    return np.flatnonzero(alone_C[chunk_T]), np.flatnonzero(alone_C[chunk_U])
