r"""Answers of several values: sets, tuples, vectors, lists, \pm, "x = 2 or x = 3"; compared value by value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rgopd.verifier.symbolic.numbers import numeric_readings
from rgopd.verifier.symbolic.spelling import joined, styled
from rgopd.verifier.symbolic.text import undelimited

Equal = Callable[[str, str], bool]
MAX_ITEMS = 60

_WORD = r"\\(?:text|mathrm|textrm|mbox)\s?\{\s{0,5},?\s{0,5}(%s)\s{0,5}\}"
_OR = re.compile(rf"{_WORD % 'or'}|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z])")
_AND = re.compile(rf"{_WORD % 'and|&'}|\\land(?![A-Za-z])|(?<![A-Za-z\\])and(?![A-Za-z])|(?<=[\d\s)])\\?&(?=[\d\s(-])")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_ASCII_PM = re.compile(r"(?<![\w)}])\+\s?/?\s?-\s?(?=[\d\\(A-Za-z])|(?<=[\w)}])\s?\+/-\s?")
_LABEL = re.compile(
    r"(?P<name>\\?[A-Za-z]{1,7}(?:_\s?(?:\{[^{}]{1,12}\}|\w))?'?)\s?(?:=|\\in(?![A-Za-z])|:(?!\s?\d))\s?(?=[^=])"
)
_TUPLE_LABEL = re.compile(r"\(\s?\\?[A-Za-z]\w{0,6}(?:\s?,\s?\\?[A-Za-z]\w{0,6}){1,6}\s?\)\s?=\s?")
_POINT = re.compile(r"[A-Z]'?\s?(?=\()")
_COLUMN = re.compile(
    r"\\begin\{([pb]?matrix|array)\}(?:\{[^{}]{0,20}\})?(.{0,4000}?)\\end\{\1\}\s?(\^\s?\{?\s?(?:T|\\top|\\intercal|\\mathrm\{T\})\s?\}?)?",
    re.DOTALL,
)
_BRACKETS = (
    ("\\{", "\\}", "set"),
    ("\\lbrace", "\\rbrace", "set"),
    ("\\langle", "\\rangle", "vector"),
    ("(", ")", "tuple"),
    ("[", "]", "square"),
    ("{", "}", ""),
)
_DOTS = re.compile(r"\\(?:ldots|dots|cdots|dotsc)|\.{3}")
_TOKENS = re.compile(r"\\begin|\\end|\\[{}]|\\[A-Za-z]+|\\.|.", re.DOTALL)
_AXIS = re.compile(
    r"([-+]?(?:[^-+\\]|\\(?!mathbf|hat|vec)[A-Za-z]+){0,60})\\(?:mathbf|hat|vec)\{?(?:\\(?:mathbf|hat)\{)?\\?([ijk])(?:math)?\}{0,2}"
)
_HALF_OPEN = {"[)": "[)", "(]": "(]", "][": "tuple", "]]": "(]", "[[": "[)"}
RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|leqslant|geqslant|neq?|lt|gt|approx|equiv)(?![A-Za-z])")


class Many(NamedTuple):
    """kind: set (no order), list (an order where the other has one), tuple, square, vector; names: variables of the
    items where they differ ("x = 1, y = 2"), else ()."""

    kind: str
    items: tuple[str, ...]
    names: tuple[str, ...] = ()


def several(latex: str) -> Many | None:
    """None for a single value, and for anything that is no plain enumeration."""
    text = undelimited(latex)
    if len(text) > 4000:
        return None
    text = styled(text).strip()
    text = _ASCII_PM.sub(r"\\pm ", text) if "+" in text else text
    text = _TUPLE_LABEL.sub("", text, count=1) if text.startswith("(") and _TUPLE_LABEL.match(text) else text
    if label := _LABEL.match(text):
        rest = text[label.end() :].strip()
        if _enclosed(rest) or _is_matrix(rest):
            text = rest
    if _POINT.match(text) and _enclosed(text[1:].lstrip("' ")):
        text = text[1:].lstrip("' ")
    if _is_matrix(text):
        return _vector(text)
    if ("mathbf" in latex or "hat" in latex or "vec" in latex) and (found := _by_axes(latex)):
        return found
    for opening, closing, kind in _BRACKETS:
        if text.startswith(opening) and text.endswith(closing) and _enclosed(text):
            inside = text[len(opening) : len(text) - len(closing)]
            return _items(inside, kind) if kind else several(inside)
    if (half := _HALF_OPEN.get(text[:1] + text[-1:])) and len(ends := split(text[1:-1], ",;")) == 2:
        return Many(half, tuple(end.strip() for end in ends))
    if ";" in text and (groups := _groups(text)) is not None:
        return groups
    return _items(text if numeric_readings(text) else joined(text), "")


def _groups(text: str) -> Many | None:
    """p = 5, q = 2; p = 7, q = 2 as (5, 2), (7, 2)."""
    groups = [_items(part, "") for part in split(text, ";")]
    names = {group.names if group is not None else () for group in groups}
    if len(groups) < 2 or len(names) != 1 or () in names:
        return None
    return Many("list", tuple(f"({', '.join(group.items)})" for group in groups if group is not None))


def same_several(gold: Many, answer: Many, equal: Equal) -> bool:
    """Whether the values are the same, in order where both have one."""
    kinds = {gold.kind, answer.kind}
    if "set" in kinds and kinds & {"tuple", "square", "vector"}:
        return False  # {1, 2} has no order and (1, 2) has one
    if kinds in ({"tuple", "square"}, {"list", "square"}) and len(gold.items) == 2:
        return False  # a closed interval is no pair
    if any(kind[0] in "[(]" for kind in kinds) and len(kinds) > 1:
        return False  # half-open
    if kinds == {"set"} and len(gold.items) < len(answer.items) and len(_once(answer).items) == len(gold.items):
        answer = _once(answer)  # what a set names twice it holds once; a reference that does means a list
    if len(gold.items) != len(answer.items):
        once = [_without_repeated(many) for many in (gold, answer)]
        return (
            len(once[0].items) == len(once[1].items)
            and once != [gold, answer]
            and same_several(once[0], once[1], equal)
        )
    dots = [[_DOTS.fullmatch(i.strip()) is not None for i in many.items] for many in (gold, answer)]
    if dots[0] != dots[1]:
        return False
    if gold.names and answer.names:
        order = dict(zip(answer.names, answer.items, strict=True))
        return set(order) == set(gold.names) and all(
            equal(item, order[name]) for name, item in zip(gold.names, gold.items, strict=True)
        )
    if any(dots[0]) or not kinds <= {"set", "list"}:
        return all(d or equal(g, a) for g, a, d in zip(gold.items, answer.items, dots[0], strict=True))
    return _matched(list(gold.items), list(answer.items), equal)


def _without_repeated(many: Many) -> Many:
    """A list of tuples with each of them once: nobody counts a solution twice."""
    if many.names or many.kind not in ("set", "list") or not all(item.startswith("(") for item in many.items):
        return many
    return _once(many)


def _once(many: Many) -> Many:
    return many._replace(items=tuple({item.replace(" ", ""): item for item in many.items}.values()))


def _matched(gold: list[str], answer: list[str], equal: Equal) -> bool:
    left = list(answer)
    for item in gold:
        found = next((other for other in left if other.replace(" ", "") == item.replace(" ", "")), None)
        if found is None:
            found = next((other for other in left if equal(item, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _items(text: str, kind: str) -> Many | None:
    if RELATION.search(text) or "\\mid" in text or "\\cup" in text or "\\setminus" in text:
        return None
    joined_by_or = not kind and _OR.search(text) is not None
    text = _OR.sub(" , ", text) if joined_by_or else text
    text = _AND.sub(" , ", text) if not kind and ("and" in text or "&" in text) else text
    pieces = [piece.strip() for piece in split(text, ",;")]
    pieces = [piece for number, piece in enumerate(pieces) if piece or number < len(pieces) - 1]  # a last comma
    if joined_by_or or (not kind and len(pieces) > 2):
        pieces = [piece for piece in pieces if piece]  # 19, 46, and 82
    if not pieces or len(pieces) > MAX_ITEMS or not all(pieces):
        return None
    names, values = _unnamed(pieces) if kind in ("", "set") else ((), pieces)
    signs = any(_PLUS_MINUS.search(value) for value in values)
    if signs:
        expanded = [_both_signs(value) for value in values]
        if any(e is None for e in expanded) or names:
            return None
        if kind in ("tuple", "square", "vector"):
            return _signed_tuple(values, kind)
        values = [v for e in expanded if e is not None for v in e]
    if len(values) < 2:
        return None
    if kind == "":
        kind = "set" if signs or joined_by_or else "list"
    return Many(kind, tuple(values), tuple(names))


def _signed_tuple(values: list[str], kind: str) -> Many | None:
    if sum(len(_PLUS_MINUS.findall(value)) for value in values) != 1:
        return None  # whether the signs go together is not said
    opening, closing = ("[", "]") if kind == "square" else ("(", ")")
    ways = [opening + ", ".join(_with_sign(v, upper) for v in values) + closing for upper in (True, False)]
    return Many("set", tuple(ways))


def _both_signs(text: str) -> list[str] | None:
    """Both values of one sign of two; None where two such signs stand in one value."""
    found = _PLUS_MINUS.findall(text)
    if not found:
        return [text]
    return [_with_sign(text, True), _with_sign(text, False)] if len(found) == 1 else None


def _with_sign(text: str, upper: bool) -> str:
    def sign(found: re.Match[str]) -> str:
        plus = (found[1] == "pm") == upper
        leads = not text[: found.start()].strip() or text[: found.start()].rstrip()[-1] in "({[,="
        return ("" if leads else "+") if plus else "-"

    return _PLUS_MINUS.sub(sign, text)


def _unnamed(pieces: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The values without "x =" where it is the same variable throughout, subscripts aside; else with their names."""
    labels = [_LABEL.match(piece) for piece in pieces]
    if not any(labels):
        return (), pieces
    values = [piece[label.end() :] if label else piece for piece, label in zip(pieces, labels, strict=True)]
    if any("=" in value for value in values):
        return (), pieces
    bases = {label["name"].partition("_")[0] for label in labels if label}
    if len(bases) == 1:
        return (), values
    names = tuple(label["name"].replace(" ", "") if label else "" for label in labels)
    if all(names) and len(set(names)) == len(names):
        return names, values
    return (), pieces


def _by_axes(latex: str) -> Many | None:
    r"""2\mathbf{i} - \mathbf{k} as (2, 0, -1)."""
    text = latex.replace(" ", "").strip("$")
    parts: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _AXIS.match(text, at)
        if found is None or found[2] in parts:
            return None
        parts[found[2]] = (
            (found[1].removeprefix("+") + "1") if found[1] in ("", "+", "-") else found[1].removeprefix("+")
        )
        at = found.end()
    names = "ijk" if "k" in parts else "ij"
    return Many("vector", tuple(parts.get(name, "0") for name in names)) if parts else None


def _is_matrix(text: str) -> bool:
    return text.startswith("\\begin{") and _COLUMN.fullmatch(text) is not None


def _vector(text: str) -> Many | None:
    found = _COLUMN.fullmatch(text)
    if found is None:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\|\\cr(?![A-Za-z])", found[2]) if row.strip()]
    column = bool(rows) and all(len(row) == 1 for row in rows)
    if len(rows) < 2 and not (found[3] and len(rows) == 1):
        return None  # a row is no column
    if found[3] and len(rows) == 1:
        rows, column = [[cell] for cell in rows[0]], True
    if not column or found[1] == "array":
        return None
    return Many("vector", tuple(row[0].strip() for row in rows))


def _enclosed(text: str) -> bool:
    """One pair of brackets around everything."""
    depth = 0
    tokens = [t[0] for t in _TOKENS.finditer(text)] if text[:1] in ("(", "[", "{", "\\") else []
    for number, token in enumerate(tokens):
        if token in ("(", "[", "{", "\\{", "\\lbrace", "\\langle"):
            depth += 1
        elif token in (")", "]", "}", "\\}", "\\rbrace", "\\rangle"):
            depth -= 1
            if depth == 0:
                return number == len(tokens) - 1 and number > 0
        elif depth == 0:
            return False
    return False


def split(text: str, separators: str) -> list[str]:
    """Parts between separators that stand in no bracket; {,} groups digits and parts nothing."""
    parts, part, depth = [], list[str](), 0
    for found in _TOKENS.finditer(text):
        token = found[0]
        if token in ("(", "[", "{", "\\{", "\\lbrace", "\\langle", "\\begin"):
            depth += 1
        elif token in (")", "]", "}", "\\}", "\\rbrace", "\\rangle", "\\end"):
            depth -= 1
        if depth == 0 and token in separators:
            parts.append("".join(part))
            part = []
        else:
            part.append(token)
    return [*parts, "".join(part)]


def matrix_of(many: Many) -> str | None:
    """[[1, 2], [3, 4]] in LaTeX; None for anything else."""
    rows = [several(item) for item in many.items] if many.kind == "square" else []
    if not rows or not all(
        row is not None and row.kind == "square" and len(row.items) == len(many.items[0].split(",")) for row in rows
    ):
        return None
    cells = "\\\\".join("&".join(row.items) for row in rows if row is not None)
    return f"\\begin{{bmatrix}}{cells}\\end{{bmatrix}}"
