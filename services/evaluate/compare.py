"""`rgopd compare`: evaluations become tables, runs become curves, side by side."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rgopd.common.errors import ConfigError
from rgopd.common.settings import nearest
from rgopd.evaluate import paper
from rgopd.evaluate.cells import SPEC, read_scores
from rgopd.evaluate.curves import Axis, draw
from rgopd.evaluate.render import as_json, html_page, latex, markdown
from rgopd.evaluate.scores import Block, Column, Role, Row, Score
from rgopd.evaluate.table import Table, make_table

LIKELIHOOD_TITLE = "Likelihood ranking"


@dataclass(frozen=True)
class Source:
    """A folder and the name of its row or line."""

    name: str
    folder: Path


@dataclass
class Evaluated:
    """The scores of one model: length -> column -> score; likelihood columns are under None."""

    name: str
    scores: dict[int | None, dict[Column, Score]] = field(default_factory=dict)


def parse_sources(words: Sequence[str]) -> list[Source]:
    """["LABEL=PATH", "PATH"]; without a label the evaluation's or the folder's name is the label.

    Raises:
        ConfigError: a folder that is neither a run nor an evaluation.
    """
    sources = []
    for word in words:
        label, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            label, path = "", word
        folder = Path(path)
        if not (folder / SPEC).exists() and not (folder / "metrics.jsonl").exists():
            raise ConfigError(
                f"{folder} is neither an evaluation ({SPEC}) nor a run (metrics.jsonl): name what `rgopd eval` or "
                "`rgopd up` wrote, as PATH or LABEL=PATH"
            )
        sources.append(Source(label or _own_name(folder), folder))
    if not sources:
        raise ConfigError("name at least one evaluation or run: rgopd compare runs/a runs/b")
    return sources


def _own_name(folder: Path) -> str:
    if (folder / SPEC).exists():
        return str(json.loads((folder / SPEC).read_text(encoding="utf-8"))["name"])
    return folder.resolve().name


def evaluations(source: Source) -> list[Path]:
    """The evaluation folders of a source: itself, or those in a run's evals/."""
    if (source.folder / SPEC).exists():
        return [source.folder]
    return sorted(path.parent for path in source.folder.glob(f"evals/*/{SPEC}"))


def load(source: Source) -> Evaluated:
    """All scores of a source, its evaluations laid together.

    Raises:
        ConfigError: two of its evaluations have the same benchmark at the same length.
    """
    found = Evaluated(source.name)
    for folder in evaluations(source):
        for length, columns in read_scores(folder).items():
            here = found.scores.setdefault(length, {})
            if twice := sorted(c.label for c in set(here) & set(columns)):
                raise ConfigError(f"{source.folder} has {', '.join(twice)} twice: name the evaluation folder itself")
            here.update(columns)
    return found


def blocks(
    found: Sequence[Evaluated], baseline: str, roles: Mapping[str, Role], order: Sequence[str] = ()
) -> list[Block]:
    """One block a generation length; likelihood columns join it where there is one length (Table 3), else their own."""
    lengths = sorted({n for e in found for n in e.scores if _generated(e, n)}, key=lambda n: n or 0)
    ranked = {e.name: {c: s for c, s in e.scores.get(None, {}).items() if c.mode == "likelihood"} for e in found}
    together = len(lengths) == 1
    made = []
    for length in lengths:
        title = f"Generation length {length}" if length else "Generation, the tasks' own length"
        scores = {e.name: {c: s for c, s in e.scores.get(length, {}).items() if c.mode == "generate"} for e in found}
        if together:
            scores = {name: {**own, **ranked[name]} for name, own in scores.items()}
        made.append(_block(title, scores, baseline, roles, order))
    if any(ranked.values()) and not together:
        made.append(_block(LIKELIHOOD_TITLE, ranked, baseline, roles, order))
    return made


def _generated(evaluated: Evaluated, length: int | None) -> bool:
    return any(column.mode == "generate" for column in evaluated.scores[length])


def _block(
    title: str,
    scores: Mapping[str, Mapping[Column, Score]],
    baseline: str,
    roles: Mapping[str, Role],
    order: Sequence[str],
) -> Block:
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    place = {label: i for i, label in enumerate([*order, *paper.GENERATIVE, *paper.OTHERS])}
    columns.sort(key=lambda c: (c.mode != "generate", place.get(c.label, len(place))))
    rows = [Row(name, own, roles.get(name, "ranked")) for name, own in scores.items() if own]
    return Block(title, tuple(columns), tuple(rows), baseline)


def with_paper(made: Sequence[Block]) -> list[Block]:
    """The same blocks with the paper's printed rows as references, where the length is one of its own."""
    result = []
    for block in made:
        digits = re.search(r"(\d+)$", block.title)
        if digits and int(digits[1]) in (1024, 8096):
            printed = paper.table_1(int(digits[1]))
            rows = [Row(f"{row.name}, as printed", row.scores, "reference") for row in printed.rows]
            block = Block(block.title, block.columns, (*block.rows, *rows), block.baseline)
        result.append(block)
    return result


@dataclass(frozen=True)
class Comparison:
    """What was asked for."""

    sources: Sequence[Source]
    output: Path
    baseline: str = ""
    teacher: str = ""
    reference: Sequence[str] = ()
    axis: Axis = "steps"
    printed: bool = False
    draws: int = 10_000
    order: Sequence[str] = ()
    title: str = "Comparison"
    columns: Sequence[str] = ()
    lengths: Sequence[int] = ()


def compare(asked: Comparison) -> tuple[Table | None, list[Path]]:
    """Write the tables and curves there is something for.

    Returns:
        the table, where any source was evaluated, and the files written.

    Raises:
        ConfigError: a baseline, teacher or reference that is none of the rows; nothing to compare.
    """
    found = [e for e in (_narrowed(each, asked) for each in _joined(map(load, asked.sources))) if e.scores]
    runs = [s for s in asked.sources if (s.folder / "metrics.jsonl").exists()]
    if not found and not runs:
        raise ConfigError("none of these has a finished cell or a step yet")
    asked.output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    figure = ""
    if runs:
        png = draw([(s.name, s.folder) for s in runs], asked.output / "curves.png", asked.axis)
        written += [png, png.with_suffix(".svg")]
        data = base64.b64encode(png.read_bytes()).decode()
        figure = f"<h2>Training</h2><img alt='training curves of each run' src='data:image/png;base64,{data}'>"
    table = _table(asked, found) if found else None
    if table is not None:
        for name, text in (
            ("table.md", markdown(table)), ("table.tex", latex(table)),
            ("table.html", html_page(table, asked.title, figure)), ("table.json", as_json(table) + "\n"),
        ):  # fmt: skip
            (asked.output / name).write_text(text, encoding="utf-8")
            written.append(asked.output / name)
    return table, written


def _joined(loaded: Iterable[Evaluated]) -> list[Evaluated]:
    """Sources with one name are one row, as far as they hold different benchmarks."""
    rows: dict[str, Evaluated] = {}
    for each in loaded:
        row = rows.setdefault(each.name, Evaluated(each.name))
        for length, columns in each.scores.items():
            here = row.scores.setdefault(length, {})
            if set(here) & set(columns):
                raise ConfigError(f"two rows are called {each.name}: give names as LABEL=PATH")
            here.update(columns)
    return list(rows.values())


def _narrowed(each: Evaluated, asked: Comparison) -> Evaluated:
    """Only the columns and lengths that were asked for; likelihood has no length."""
    kept: dict[int | None, dict[Column, Score]] = {}
    for length, columns in each.scores.items():
        wanted = {c: s for c, s in columns.items() if not asked.columns or c.label in asked.columns}
        if wanted and (not asked.lengths or length is None or length in asked.lengths):
            kept[length] = wanted
    return Evaluated(each.name, kept)


def _table(asked: Comparison, found: Sequence[Evaluated]) -> Table:
    names = [e.name for e in found]
    roles: dict[str, Role] = {}
    for option, given, role in (
        ("--teacher", [asked.teacher], "teacher"),
        ("--reference", asked.reference, "reference"),
    ):
        for name in filter(None, given):
            if name not in names:
                raise ConfigError(f"{option} {name!r}: no such row{nearest(name, names)}")
            roles[name] = role  # type: ignore[assignment]
    baseline = asked.baseline or next((n for n in names if n not in roles), names[0])
    if baseline not in names:
        raise ConfigError(f"--baseline {baseline!r}: no such row{nearest(baseline, names)}")
    made = blocks(found, baseline, roles, asked.order)
    return make_table(with_paper(made) if asked.printed else made, draws=asked.draws)
