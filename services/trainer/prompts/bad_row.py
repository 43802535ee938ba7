"""What is wrong with one row."""

from __future__ import annotations

from rgopd.common.errors import RgopdError


class BadRow(RgopdError):
    """A row that makes no prompt; the text goes on after "row N"."""

    kind = "bad_row"
