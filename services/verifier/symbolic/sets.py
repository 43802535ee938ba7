r"""Sets of real numbers, however written: intervals, unions, inequalities, \{x \mid ...\}, all but a point."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from sympy import S, Symbol, oo
from sympy.core.relational import Equality, Ge, Gt, Le, Lt, Ne, Relational
from sympy.sets.sets import Complement, FiniteSet, Intersection, Interval, Set, Union

from rgopd.verifier.symbolic.lists import split
from rgopd.verifier.symbolic.spelling import styled
from rgopd.verifier.symbolic.text import flat

Parse = Callable[[str], Any]
"""LaTeX of one expression -> sympy's, or None."""

_MARKS = re.compile(
    r"[<>]|\\(?:leq?|geq?|leqslant|geqslant|neq?|cup|cap|infty|mathbb|setminus|mid|lt|gt)(?![A-Za-z])|real|^\]|\[$|^\[.*\)$|^\(.*\]$|≠"
)
_REAL = re.compile(
    r"(?:the set of )?(?:all )?real(?:s| numbers?)|(?:all )?\\(?:mathbb|mathbf|Bbb)\s?\{?R\}?"
    r"|x is (?:any )?real(?: number)?|all x|any real number",
    re.IGNORECASE,
)
_OR = re.compile(
    r"\\cup(?![A-Za-z])|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z])|(?<=[\])\s])U(?=[\[(\s])"
)
_AND_INTERVALS = re.compile(r"(?<=[\])])\s?(?:and|,)\s?(?=[\[(])")
_AND = re.compile(r"\\land(?![A-Za-z])|\\wedge(?![A-Za-z])|\\cap(?![A-Za-z])|(?<![A-Za-z\\])and(?![A-Za-z])|&")
_SIGN = re.compile(r"(<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|neq|ne|lt|gt)(?![A-Za-z])|!=|=)")
_MAKE = {
    "<": Lt, "\\lt": Lt, ">": Gt, "\\gt": Gt, "<=": Le, "\\le": Le, "\\leq": Le, "\\leqslant": Le, ">=": Ge, "\\ge": Ge,
    "\\geq": Ge, "\\geqslant": Ge, "\\ne": Ne, "\\neq": Ne, "!=": Ne, "=": Equality,
}  # fmt: skip
_BUILDER = re.compile(
    r"\\(?:\{|lbrace)\s?(?P<name>\\?[A-Za-z]+)\s?(?:\\in\s?\\mathbb\s?\{?R\}?\s?)?(?:\\mid|\||:|\\colon|;)(?P<rest>.{1,400})\\(?:\}|rbrace)"
)
_MEMBER = re.compile(r"\s?\\?[A-Za-z]+\s?\\in(?![A-Za-z])\s?")
_INTERVAL = re.compile(r"([(\[\]])(.{1,300})([)\]\[])")
_X = Symbol("x", real=True)


def same_set(gold: str, answer: str, parse: Parse) -> bool | None:
    """None where one of them is no set of real numbers that can be told, or neither looks like one."""
    texts = [re.sub(r"\s{2,}", " ", styled(flat(latex))).strip() for latex in (gold, answer)]
    if not any(_MARKS.search(text) for text in texts):
        return None
    readers = [_Reader(parse), _Reader(parse)]
    try:
        a, b = (reader.union(text) for reader, text in zip(readers, texts, strict=True))
        if a is None or b is None:
            return None
        if all(r.names for r in readers) and readers[0].names != readers[1].names:
            return None  # x > 3 and y > 3
        return bool(a == b or a.symmetric_difference(b) is S.EmptySet)
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return None  # sympy's words for a set it cannot work with


class _Reader:
    """One text. `names`: the variables in it."""

    def __init__(self, parse: Parse) -> None:
        self.parse = parse
        self.names: set[str] = set()

    def union(self, text: str) -> Set | None:
        text = text.strip()
        if _REAL.fullmatch(text):
            return S.Reals
        if found := _BUILDER.fullmatch(text):
            self.names.add(found["name"])
            return self.union(found["rest"])
        if found := _MEMBER.match(text):
            self.names.add(found[0].replace("\\in", "").strip())
            return self.union(text[found.end() :])
        parts = _OR.sub("\0", _AND_INTERVALS.sub("\0", text)).split("\0")
        return _all(map(self._intersection, parts), Union)

    def _intersection(self, text: str) -> Set | None:
        parts = _AND.sub("\0", text).split("\0")
        if "\0" not in _AND.sub("\0", text) and _SIGN.search(text):
            parts = [part for part in split(text, ",") if part.strip()]
        return _all(map(self._piece, parts), Intersection)

    def _piece(self, text: str) -> Set | None:
        text = text.strip()
        whole, less, removed = re.sub(r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus", text).partition(
            "\\setminus"
        )
        if less:
            base, without = self.union(whole), self._finite(removed.strip()) or self.union(removed)
            return None if base is None or without is None else Complement(base, without)
        if _REAL.fullmatch(text):
            return S.Reals
        if found := _INTERVAL.fullmatch(text):
            return self._interval(found[1], split(found[2], ",;"), found[3])
        if _BUILDER.fullmatch(text) or _MEMBER.match(text):
            return self.union(text)
        if text.startswith("\\{"):
            return self._finite(text)
        return self._relation(text)

    def _interval(self, left: str, ends: list[str], right: str) -> Set | None:
        values = [self._constant(end) for end in ends]
        if len(values) != 2 or any(value is None for value in values):
            return None
        return Interval(values[0], values[1], left in "(]", right in ")[")

    def _finite(self, text: str) -> Set | None:
        if not (text.startswith("\\{") and text.endswith("\\}")):
            return None
        values = [self._constant(part) for part in split(text[2:-2], ",;")]
        return None if any(value is None for value in values) else FiniteSet(*values)

    def _constant(self, text: str) -> Any:
        plain = text.replace(" ", "").replace("{", "").replace("}", "")
        if plain in ("\\infty", "+\\infty", "-\\infty"):
            return -oo if plain[0] == "-" else oo
        value = self.parse(text)
        return value if value is not None and not value.free_symbols and value.is_real else None

    def _relation(self, text: str) -> Set | None:
        parts = _SIGN.split(text)
        if len(parts) not in (3, 5) or (
            len(parts) == 5 and not set(parts[1::2]).isdisjoint(("=", "!=", "\\ne", "\\neq"))
        ):
            return None
        sides = [self._side(part) for part in parts[::2]]
        if any(side is None for side in sides):
            return None
        return _all(
            (self._solve(_MAKE[parts[n]], sides[n // 2], sides[n // 2 + 1]) for n in range(1, len(parts), 2)),
            Intersection,
        )

    def _side(self, text: str) -> Any:
        plain = text.replace(" ", "")
        return (-oo if plain[0] == "-" else oo) if plain in ("\\infty", "+\\infty", "-\\infty") else self.parse(text)

    def _solve(self, make: Any, left: Any, right: Any) -> Set | None:
        symbols = left.free_symbols | right.free_symbols
        if len(symbols) != 1:
            return None
        symbol = symbols.pop()
        self.names.add(str(symbol))
        relation = make(left.subs(symbol, _X), right.subs(symbol, _X))
        if not isinstance(relation, Relational) or relation.count_ops() > 25:
            return None
        if isinstance(relation, Ne):
            return Complement(S.Reals, Equality(relation.lhs, relation.rhs).as_set())
        return relation.as_set()


def _all(sets: Iterable[Set | None], combine: Any) -> Set | None:
    found = list(sets)
    if any(part is None for part in found):
        return None
    return found[0] if len(found) == 1 else combine(*found)
