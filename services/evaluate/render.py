"""A table as Markdown, LaTeX (booktabs), HTML and JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

from rgopd.evaluate.table import INTERVAL_HEAD, Table, Text, heading, interval_rows, legend, lines


def markdown(table: Table) -> str:
    """One table a block, the intervals under them."""
    parts = []
    for block in table.blocks:
        rows = [[_markdown_cell(cell) for cell in line] for line in lines(table, block)]
        parts += [f"### {block.title}", _pipes(heading(block), rows)]
    parts.append(legend(table))
    if found := interval_rows(table):
        parts += ["### Differences from the baseline", _pipes(INTERVAL_HEAD, found)]
    parts += [f"- {note}" for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Text) -> str:
    text = cell.text.replace("|", "\\|")
    mark = cell.mark.replace("*", "\\*")
    return (f"**{text}**" if cell.bold else text) + (f" ± {cell.sd}" if cell.sd else "") + mark


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [list(head), ["---", *["---:"] * (len(head) - 1)], *[[cell.strip() for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "Δ": r"$\Delta$", "–": "--", "±": r"$\pm$",
}  # fmt: skip


def latex(table: Table) -> str:
    """A `tabular` a block, for booktabs."""
    parts = ["% \\usepackage{booktabs,graphicx}"]
    for block in table.blocks:
        head = heading(block)
        rows = [" & ".join(map(_latex_cell, line)) + r" \\" for line in lines(table, block)]
        parts += [
            r"\begin{table}[t]\centering",
            rf"\caption{{{_tex(block.title)}. {_tex(legend(table))}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(map(_tex, head)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _latex_cell(cell: Text) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
    sd = rf" {{\scriptsize$\pm${cell.sd}}}" if cell.sd else ""
    return text + sd + (rf"$^{{{cell.mark}}}$" if cell.mark else "")


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.25rem .6rem;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}small{color:#555}.up{color:#17692f}.down{color:#a8201a}"
    "figure{margin:0;overflow-x:auto}img{max-width:100%}"
)


def html_page(table: Table, title: str, figure: str = "") -> str:
    """A page that needs nothing else; `figure` is an inline image."""
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>",
    ]
    for block in table.blocks:
        parts += [
            f"<h2>{html.escape(block.title)}</h2>",
            "<figure>" + _grid(heading(block), lines(table, block), _html_cell) + "</figure>",
        ]
    parts.append(f"<p>{html.escape(legend(table))}</p>")
    if found := interval_rows(table):
        texts = [[Text(cell) for cell in row] for row in found]
        parts += ["<h2>Differences from the baseline</h2>", _grid(INTERVAL_HEAD, texts, _html_cell)]
    parts += [f"<p>{html.escape(note)}</p>" for note in table.notes]
    return "\n".join(parts) + figure + "</html>\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[Text]], cell: Callable[[Text], str]) -> str:
    top = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _html_cell(cell: Text) -> str:
    text = html.escape(cell.text)
    if cell.text[:1] in "+-" and cell.text[1:2].isdigit():
        text = f"<span class='{'up' if cell.text[0] == '+' else 'down'}'>{text}</span>"
    text = f"<b>{text}</b>" if cell.bold else text
    return f"<td>{text}{f' <small>± {cell.sd}</small>' if cell.sd else ''}<sup>{cell.mark}</sup></td>"


def as_json(table: Table) -> str:
    """Every number, unrounded."""
    return json.dumps({"blocks": [_block(table, i) for i in range(len(table.blocks))], "notes": table.notes}, indent=1)


def _block(table: Table, index: int) -> dict[str, Any]:
    block = table.blocks[index]
    rows = []
    for row in block.rows:
        cells = []
        for column in block.columns:
            score, test = row.scores.get(column), table.tests.get((block.title, row.name, column))
            if score is None:
                continue
            cell: dict[str, Any] = {"benchmark": column.label, "mode": column.mode, "mean": score.mean, "sd": score.sd}
            cell |= {"seeds": score.seeds, "delta": block.delta(row, column)}
            if row.role == "ranked":
                cell["rank"] = block.ranks(column)[row.name]
            if test:
                d = test.difference
                cell["test"] = {"low": d.low, "high": d.high, "p": d.p, "p_holm": test.adjusted_p, "mark": test.mark}
            cells.append(cell)
        head = {"name": row.name, "role": row.role, "average": block.average(row)}
        rows.append({**head, "average_rank": block.average_rank(row), "cells": cells})
    return {"title": block.title, "baseline": block.baseline, "rows": rows}
