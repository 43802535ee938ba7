"""The table of docs/models.md, from the list: `python -m tests.families.table` writes it."""

from __future__ import annotations

from pathlib import Path

from tests.families.families import FAMILIES

PAGE = "docs/models.md"
BEGIN, END = "<!-- families:begin -->\n", "<!-- families:end -->\n"


def table() -> str:
    """Three rows of names, and one line a refusal."""
    names = {
        "packed rows": [f.name for f in FAMILIES if f.packs and not f.refused],
        "padded rows, by itself": [f.name for f in FAMILIES if not f.packs and not f.refused],
        "refused in one line": [f.name for f in FAMILIES if f.refused],
    }
    rows = [f"| {what} | {len(some)} | {', '.join(f'`{name}`' for name in some)} |" for what, some in names.items()]
    return "\n".join(["| trained on | families | `model_type` |", "|---|---|---|", *rows]) + "\n"


def main() -> None:
    """Write it into the page."""
    page = Path(__file__).parents[2] / PAGE
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
