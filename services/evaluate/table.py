"""Tables 1 to 3's shape, plus intervals: blocks, the bootstrap of every difference, and rows of text cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rgopd.evaluate.bootstrap import Difference, holm, paired
from rgopd.evaluate.scores import Block, Column, Row

MISSING = "–"


@dataclass(frozen=True)
class Test:
    """A row's difference from the baseline in one column, and its p among all comparisons of the table."""

    __test__ = False  # not a pytest class

    difference: Difference
    adjusted_p: float

    @property
    def mark(self) -> str:
        """** after Holm's correction over the table, * before it, at 5%."""
        return "**" if self.adjusted_p < 0.05 else "*" if self.difference.significant else ""


Tests = dict[tuple[str, str, Column], Test]
"""By block title, row name and column."""


@dataclass(frozen=True)
class Table:
    """All blocks with what was tested, and remarks that belong under it."""

    blocks: tuple[Block, ...]
    tests: Tests
    notes: tuple[str, ...] = ()


def make_table(blocks: Sequence[Block], *, draws: int = 10_000, seed: int = 0) -> Table:
    """Test every ranked row against its block's baseline where both kept their documents."""
    found: dict[tuple[str, str, Column], Difference] = {}
    notes: list[str] = []
    for block in blocks:
        names = [row.name for row in block.rows]
        base = block.row(block.baseline) if block.baseline in names else None
        for row in block.ranked if base else ():
            for column in block.columns if row is not base else ():
                here, there = row.scores.get(column), base.scores.get(column) if base else None
                if here is None or there is None or not here.documents or not there.documents:
                    continue
                result = paired(here.documents, there.documents, draws=draws, seed=seed)
                if result is None:
                    notes.append(
                        f"{row.name}, {column.label}: not the same documents as {block.baseline}, so no interval"
                    )
                else:
                    found[block.title, row.name, column] = result
        missing = [c.label for c in block.columns if c not in block.common]
        if missing and len(block.ranked) > 1:
            notes.append(f"{block.title}: averages and ranks leave out {', '.join(missing)}, which some rows lack")
    adjusted = holm([d.p for d in found.values()])
    tests = {key: Test(d, p) for (key, d), p in zip(found.items(), adjusted, strict=True)}
    return Table(tuple(blocks), tests, tuple(notes))


@dataclass(frozen=True)
class Text:
    """One cell as text; the renderers add their own bold and raised marks."""

    text: str
    sd: str = ""
    bold: bool = False
    mark: str = ""


def heading(block: Block) -> list[str]:
    """Method, then each benchmark with its Δ, then average and average rank."""
    both = len({c.mode for c in block.columns}) > 1
    names = [f"{c.label} ({'gen.' if c.mode == 'generate' else 'likelihood'})" if both else c.label
             for c in block.columns]  # fmt: skip
    return ["Method", *(word for name in names for word in (name, "Δ")), "Avg.", "Avg. rank"]


def lines(table: Table, block: Block) -> list[list[Text]]:
    """The rows of a block, one cell a heading."""
    return [_line(table, block, row) for row in block.rows]


def _line(table: Table, block: Block, row: Row) -> list[Text]:
    cells = [Text(row.name)]
    for column in block.columns:
        score = row.scores.get(column)
        test = table.tests.get((block.title, row.name, column))
        cells.append(
            Text(MISSING)
            if score is None
            else Text(
                f"{score.mean:.2f}",
                "" if score.sd is None else f"{score.sd:.2f}",
                row.name in block.best(column),
                test.mark if test else "",
            )
        )
        delta = block.delta(row, column)
        cells.append(Text(MISSING if delta is None else f"{delta:+.2f}" if round(delta, 2) else "0.00"))
    average, rank = block.average(row), block.average_rank(row)
    cells.append(Text(MISSING if average is None else f"{average:.2f}", bold=row.name in block.best(None)))
    cells.append(Text(MISSING if rank is None else f"{rank:.1f}"))
    return cells


def interval_rows(table: Table) -> list[list[str]]:
    """Block, method, benchmark, Δ with its 95% interval, p, p after Holm; empty where nothing could be paired."""
    return [
        [
            title,
            name,
            column.label + ("" if column.mode == "generate" else " (likelihood)"),
            f"{test.difference.delta:+.2f}",
            f"[{test.difference.low:+.2f}, {test.difference.high:+.2f}]",
            f"{test.difference.p:.4f}",
            f"{test.adjusted_p:.4f}",
            str(test.difference.documents),
        ]
        for (title, name, column), test in table.tests.items()
    ]


INTERVAL_HEAD = ["block", "method", "benchmark", "Δ", "95% interval", "p", "p (Holm)", "documents"]
LEGEND = (
    "Percent, mean ± sample standard deviation over seeds. Δ: points above {baseline}. Bold: best of the ranked rows; "
    "teacher and reference rows are not ranked. * differs from the baseline at 5% (paired bootstrap over documents), "
    "** also after Holm's correction over this table."
)


def legend(table: Table) -> str:
    """What the reader has to know, with the baseline's name."""
    return LEGEND.format(baseline=", ".join(sorted({block.baseline for block in table.blocks})))
