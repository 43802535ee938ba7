"""Digits and signs of other scripts, written as ASCII and LaTeX before anything else looks at a text."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_SIGNS = {
    "−–‐‑‒﹣－": "-", "×✕": r"\times ", "÷": r"\div ", "·⋅∙": r"\cdot ", "±": r"\pm ", "∓": r"\mp ",
    "≤≦⩽": r"\le ", "≥≧⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "∪⋃": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅⌀": r"\emptyset ", "∖": r"\setminus ", "∨": r"\lor ", "∧": r"\land ", "∶꞉": ":", "°º˚": r"^\circ ",
    "℃": r"^\circ C", "℉": r"^\circ F", "…⋯": r"\ldots ", "∣": "|", "⟨〈〈": r"\langle ", "⟩〉〉": r"\rangle ",
    "′’‘": "'", "″”“": '"', "。｡۔": ".", "、،٫": ",", "٬": ",", "٪": "%", "「」『』": "", "【〔": "[", "】〕": "]",
    "\u200b\u200c\u200d\u2060\ufeff\u200e\u200f": "", "\xa0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u202f\u205f\u3000": " ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "⁄∕": "/", "＼": "\\", "￥": "¥", "￡": "£",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip


def _table() -> dict[int, str]:
    table = {
        code: unicodedata.normalize("NFKC", chr(code)) for code in (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800))
    }
    table |= {code: str(unicodedata.decimal(chr(code))) for code in range(0x80, 0x20000) if chr(code).isdecimal()}
    table |= {ord(sign): ascii_ for signs, ascii_ in _SIGNS.items() for sign in signs}
    table |= {ord(letter): f"\\{name} " for letter, name in _GREEK.items()}
    table[ord("٫")] = "."
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189):
        value = Fraction(unicodedata.numeric(chr(code))).limit_denominator(10)
        table[code] = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return table


_TABLE = _table()
_UP, _DOWN = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋ₙ"
_FLAT = str.maketrans(_UP + _DOWN, "0123456789+-n" * 2)
_RAISED = re.compile(f"[{_UP}]{{1,40}}|[{_DOWN}]{{1,40}}")
_ROOT = re.compile(r"([√∛∜])\s{0,3}(\d{1,40}(?:\.\d{1,40})?|\\?[A-Za-z]{1,12}|\([^()]{0,200}\)|\{[^{}]{0,200}\})")
_DEGREE = {"√": "", "∛": "[3]", "∜": "[4]"}


def plain(text: str) -> str:
    """The same text in ASCII and LaTeX, as far as it is mathematics; letters of other scripts stay."""
    if text.isascii():
        return text
    text = _RAISED.sub(_script, text).translate(_TABLE)
    return _ROOT.sub(lambda found: f"\\sqrt{_DEGREE[found[1]]}{{{found[2].strip('(){}')}}}", text)


def _script(found: re.Match[str]) -> str:
    return ("^" if found[0][0] in _UP else "_") + "{" + found[0].translate(_FLAT) + "}"


_NUMERALS = ("零〇", "一壹", "二两兩贰", "三叁", "四肆", "五伍", "六陆", "七柒", "八捌", "九玖")
_DIGITS = {c: n for n, names in enumerate(_NUMERALS) for c in names}
_PLACES = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_GROUPS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE = re.compile(f"[负負]?[{''.join((*_DIGITS, *_PLACES, *_GROUPS))}点點分之]{{1,40}}")


def chinese_number(text: str) -> Fraction | None:
    """A number in Chinese numerals: 一百二十三, 三点五, 三分之一. None for anything else."""
    if text.isascii() or not _CHINESE.fullmatch(text):
        return None
    sign, text = (-1, text[1:]) if text[0] in "负負" else (1, text)
    below, over, above = text.partition("分之")
    if over:
        parts = _chinese_integer(above), _chinese_integer(below)
        return sign * Fraction(parts[0], parts[1]) if parts[0] is not None and parts[1] else None
    whole, point, decimals = text.replace("點", "点").partition("点")
    value = _chinese_integer(whole)
    if value is None or (point and not (decimals and all(c in _DIGITS for c in decimals))):
        return None
    digits = "".join(str(_DIGITS[c]) for c in decimals)
    return sign * (Fraction(value) + (Fraction(int(digits), 10 ** len(digits)) if digits else 0))


def _chinese_integer(text: str) -> int | None:
    if text and all(c in _DIGITS for c in text):
        return int("".join(str(_DIGITS[c]) for c in text)) if len(text) == 1 or text[0] not in "零〇" else None
    total = section = 0
    digit: int | None = None
    last = 10**9  # places fall from left to right
    for c in text:
        if c in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[c]
        elif c in _PLACES:
            if _PLACES[c] >= last or digit == 0:
                return None
            section += (1 if digit is None else digit) * _PLACES[c]
            digit, last = None, _PLACES[c]
        elif c in _GROUPS:
            total = (total + section + (digit or 0)) * _GROUPS[c]
            section, digit, last = 0, None, 10**9
        else:
            return None
    if digit and text[-2:-1] and text[-2] in "百佰千仟万萬亿億":
        return None  # 一万五 is 15,000 in speech and nothing in writing
    return total + section + (digit or 0) if text else None
