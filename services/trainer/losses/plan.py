"""How the head's walk over tiles is cut: rows whose logits are kept at once, ids whose float32 logits are, and in what
the weight's gradient is summed. A pure function of sizes, so that a CPU can check what a GPU will hold.
"""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = 1408 << 20
"""Bytes of kept logits (and of a wide sum of the weight's gradient): with a tile and the hidden states' gradient it
stays under 1.5 GiB beyond the gradients themselves."""
TILE = 1 << 23
"""Float32 logits at work at once: 32 MiB, which the product writes and the next kernel reads while a GPU's second-level
cache (50 MB on an H100) holds them."""
BLOCK = 1024
"""Ids that share one reference, against which their kept logits are narrowed; what one program works on."""
ROWS = 4096
"""Kept rows are a multiple of this where so many fit: whole waves of the products' own tiles."""
NARROW_SUMS = 4
"""Chunks that a gradient in 16 bits may be the sum of. Each product is summed in float32 and rounded once; four such
roundings are 1.2e-3 of each entry, less than the rounding of the logits' gradient. Beyond it the sum is float32."""


@dataclass(frozen=True)
class TilePlan:
    """Sizes of one walk."""

    rows: int
    """Rows a chunk; all chunks are of this size but the last."""
    width: int
    """Ids a tile, a multiple of `block`."""
    block: int
    """A power of two."""
    wide_sum: bool
    """Sum the weight's gradient in float32, at its own price in memory and traffic."""

    def chunks(self, rows: int, *, after: int = 0) -> list[slice]:
        """Where the chunks of so many rows are; `after`: of those from there on."""
        return [slice(start, min(start + self.rows, rows)) for start in range(after, rows, self.rows)]


def plan_tiles(
    rows: int, vocab: int, hidden: int, itemsize: int, *, chunk_size: int | None = None, tile_size: int | None = None
) -> TilePlan:
    """For `rows` rows of `vocab` logits over hidden states of size `hidden`, kept in `itemsize` bytes each.

    `chunk_size`: kept logits, instead of what `BUDGET` allows. `tile_size`: float32 logits, instead of `TILE`.
    """
    kept = chunk_size or BUDGET // itemsize
    chunk = _chunk(rows, kept // vocab)
    wide = itemsize < 4 and chunk * NARROW_SUMS < rows
    if wide and chunk_size is None:
        kept = max(BUDGET // 4, BUDGET - 4 * vocab * hidden) // itemsize
        chunk = _chunk(rows, kept // vocab)
    tile = tile_size or min(TILE, max(kept, 1))
    width = max(1, min(tile // chunk, vocab))
    block = min(BLOCK, 1 << (width.bit_length() - 1))
    return TilePlan(chunk, width // block * block, block, wide)


def _chunk(rows: int, fit: int) -> int:
    """Chunks of one size, as few as may be, of a multiple of `ROWS`, or at least of 128, where so many fit."""
    step = ROWS if fit >= ROWS else 128 if fit >= 128 else 1
    fit = max(1, fit // step * step)
    if rows <= fit:
        return max(1, rows)
    count = -(-rows // fit)
    step = min(step, 128)
    return min(fit, -(-rows // count // step) * step)


def tile_width(rows: int, vocab: int, chunk_size: int) -> int:
    """Ids a tile of float32 logits of so many rows: a multiple of 128 where that many fit, since products and loads of
    odd widths are several times slower on a GPU."""
    width = max(1, min(vocab, chunk_size // max(1, rows)))
    return width if width < 128 or width == vocab else width // 128 * 128
