"""`rgopd compare`: the table on the terminal, and where it was written."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rgopd.evaluate import table as tables
from rgopd.evaluate.compare import Comparison, compare
from rgopd.evaluate.scores import Block


def run_compare(asked: Comparison) -> int:
    """The command; returns an exit code."""
    table, written = compare(asked)
    console = wide_console()
    if table is not None:
        for block in table.blocks:
            console.print(terminal_table(table, block))
        console.print(tables.legend(table), highlight=False, markup=False)
        for note in table.notes:
            console.print(f"- {note}", highlight=False, markup=False)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def terminal_table(table: tables.Table, block: Block) -> Table:
    """A block for people."""
    head = tables.heading(block)
    shown = Table(head[0], title=block.title)
    for name in head[1:]:
        shown.add_column(name, justify="right")
    for line in tables.lines(table, block):
        cells = [c.text + (f" ±{c.sd}" if c.sd else "") + c.mark for c in line]
        shown.add_row(*(f"[bold]{t}[/bold]" if c.bold else t for t, c in zip(cells, line, strict=True)))
    return shown


def wide_console() -> Console:
    """On a terminal its own width; in a file or a log wide enough that no cell is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=220)
