"""Reading an answer's LaTeX before any parser does: extraction, tidy-up, and what its outermost form says."""

from __future__ import annotations

import re

from rgopd.verifier.reading import after_reasoning, answer_tag, boxed, boxes, last_line

MAX_ANSWER = 20_000
"""Characters of a response that are looked at, from its end. Answers stand there, and parsers are superlinear."""

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:(?:\s|\\,|\\;|\\!|\\ |~|\{,\}|,\\!|,)\d{3})+(?:\.\d+)?")
_ANNOUNCEMENT = re.compile(r"(?i)\b(?:final )?answer is\b")
_JOINT = re.compile(r"(?:[\s$,;.{}]|\\[()]|and|or|\\text|\\q?quad){0,40}")
_WORDED_JOINT = re.compile(
    r"(?!.{0,60}\b(?:so|thus|then|hence|therefore|finally|gives?|get|is|not|answer|or)\b)[^.\n\\]{0,40}"
    r"(?:\\text\{)?[^.\n\\]{0,40}\band\b[\s},$]{0,8}"
)
_SENTENCE = re.compile(r"(?:[^.\n]|\.(?=\S)){0,300}")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?%?")  # one separator: 1,2,7 is no number anywhere
_SEPARATOR = re.compile(r"\s|\\,|\\;|\\!|\\ |~|\{,\}|,\\!|,")
_NUMBER = re.compile(r"[+-]?\$?(?:\d[\d,]*\.?\d*|\.\d+)%?")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)"))
_MATHY = re.compile(
    r"[\s\d.,:;+\-*/^_=<>(){}\[\]|!'%&]|\\[A-Za-z]+|\\[,;!{}|%$ ]|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])"
)
_PROSE = re.compile(r"(?i)\b(?:so|it|is|we|he|an|of|by|be|as|my|at|us|if|do|me)\b")
_ESCAPED = re.compile(r"\\\\(?=[A-Za-z{}(),!;$%\[\]])")
_NONE = re.compile(
    r"(?:(?:there (?:is|are)|(?:it|the equation|the system) has) )?no (?:real |such |valid |possible )?"
    r"(?:solutions?|roots?|answers?|values?|numbers?|integers?|zeros|x)(?: of x)?"
    r"(?: exists?| in the reals| in real numbers)?|(?:does|do) not exist"
    r"|无(?:实数?)?解|没有(?:实数)?解|无实根|不存在|нет (?:действительных )?(?:решений|корней)"
    r"|keine (?:reelle )?lösung(?:en)?|(?:pas de|aucune) solutions?|(?:sin|no hay) soluci(?:ón|ones)"
)
_COUNTED = re.compile(r"(?i)(?<=many) (?:real )?(?:solutions?|roots?|values?)$")
_BOLD_LETTER = re.compile(r"(?<![\w)\]*])\*\*([A-J])\*\*(?:\s{1,3}[-–—](?=\s)|(?=\s{0,3}(?![\s=+^/*<>-])))")
_BOLD = re.compile(r"(?<![\w)\]*])\*\*(?=[^\s*])([^*\n]{1,200})(?<=\S)\*\*(?![\w(*])")
_BREAKS = re.compile(r"(?:\\\\\s{0,8}|\\newline\s{0,8})+$")
_ROWS = re.compile(r"(?<=[\w)}])\s{0,3}\\\\\s{0,3}(?=[\d-])")
_APART = re.compile(r"(?<=\d)\s+(?=\d)")
_TEXT = re.compile(
    r"\\(?:text|textbf|textrm|mathrm|mbox|textit|textup|operatorname|mathbf|mathsf|bf|rm)\s{0,3}\{([^{}]{0,200})\}"
)
_COLOUR = re.compile(r"\\(?:text)?color(?:box)?\s{0,3}(?:\[\w{1,9}\]\s?)?\{[\w!, .#-]{1,40}\}")
_LAST_BREAK = re.compile(r"\\\\\s{0,9}(\\[\])]|\$\$)")
_COMMENT = re.compile(r"(?<!\\)%[^\n]{0,200}\n\s{0,20}")
_LINES = re.compile(r"[ \t]{0,20}\n\s{0,20}")
_ARTICLE = re.compile(r"(?i)^(?:an?|the) (?=[A-Za-z]{3})")
_KIND = re.compile(r"(?i)(?<=^even) (?:function|number|integer)$|(?<=^odd) (?:function|number|integer)$")
_LOGIC = re.compile(
    r"\\(?:(land)|(lor)|(lnot)|(rightarrow|Rightarrow|Longrightarrow|implies)|(Leftrightarrow|leftrightarrow))(?![A-Za-z])"
)
_SIGNS = ("\\wedge", "\\vee", "\\neg", "\\to", "\\iff")
_SPACING = re.compile(r"\\(?:[,;:> ]|q?quad(?![A-Za-z])|left(?![A-Za-z])|right(?![A-Za-z]))|~")
_WORDS = re.compile(r"[A-Za-z]{3,40}(?: [A-Za-z]{1,40}){0,20}")
_EMPTY = frozenset({"\\emptyset", "\\varnothing", "∅", "\\{\\}", "{}", "none", "emptyset", "theemptyset", "dne"})


def extract(response: str, how: str) -> str | None:
    """The part of a response that holds the answer; None when it has none of the asked-for form."""
    text = after_reasoning(response)
    if how == "boxed":
        return boxed(text)
    if how == "hashes":
        _, found, tail = text.rpartition("####")
        return tail.strip().partition("\n")[0] if found else None
    if how == "answer_tag":
        return answer_tag(text)
    if how == "last_line":
        return last_line(text)
    if how == "last_number":
        numbers = _NUMBER.findall(text[-MAX_ANSWER:])
        return str(numbers[-1]).lstrip("$").rstrip(",.") if numbers else None
    tag = answer_tag(text) if "\\boxed" not in text else None
    return text if tag is None else tag


def unescaped(text: str) -> str:
    r"""\\\\frac as \\frac: escaped once too often, as happens to JSON. A matrix has line breaks of its own; one at a
    box's or a formula's end is nothing, nor is what a part is coloured in."""
    if "color" in text:
        text = _COLOUR.sub("", text)
    for box in sorted(boxes(text), key=lambda box: -box.end) if "\\\\" in text or "\\newline" in text else ():
        if found := _BREAKS.search(box.content[-60:]):
            text = text[: box.end - 1 - len(found[0])] + text[box.end - 1 :]
    if "\\\\" not in text or "\\begin" in text:
        return text
    return _ESCAPED.sub(r"\\", _LAST_BREAK.sub(r"\1", text))


def announced(text: str) -> str | None:
    r"""The sentence that announces the answer after the last \boxed; None where no such box and sentence are."""
    last = text.rfind("\\boxed")
    found = list(_ANNOUNCEMENT.finditer(text, last)) if last >= 0 else []
    if not found:
        return None
    return _SENTENCE.match(text, found[-1].start())[0]  # type: ignore[index]  # it matches the empty string


def boxed_answer(text: str, *, of_several: bool = False) -> str | None:
    r"""The last \boxed; together with those that stand beside it, joined by "and" or a comma, as one set: several
    answers are only right where several are asked for.

    Args:
        of_several: several are, and words may stand between: "\boxed{3} apples and \boxed{2} pears".
    """
    found = boxes(text)
    if not found:
        return None
    contents = [found[-1].content]
    for earlier, later in zip(found[-2::-1], found[:0:-1], strict=True):
        joint = _JOINT.fullmatch(text, earlier.end, later.start)
        if joint is None and of_several:
            joint = _WORDED_JOINT.fullmatch(text, earlier.end, later.start)
        if earlier.end > later.start or joint is None:
            break
        if earlier.content not in contents:
            contents.insert(0, earlier.content)
    contents = [_LINES.sub(" ", _COMMENT.sub("", content)) if "\n" in content else content for content in contents]
    if len(contents) == 1:
        return contents[0] if "\\begin" in contents[0] else _ROWS.sub(", ", contents[0])
    return "\\{" + ", ".join(contents) + "\\}"


def unstarred(text: str) -> str:
    """Without the stars of Markdown's bold; a letter alone between them as "(C)", since they set it apart."""
    return _BOLD.sub(r"\1", _BOLD_LETTER.sub(r"(\1)", text)) if "**" in text else text


def flat(latex: str) -> str:
    r"""As it would be read out: \text and its kin unwrapped, spaces of all sorts one blank, \colon a colon."""
    text = _TEXT.sub(r"\1", bare(latex)) if "\\" in latex else bare(latex)
    text = _SPACING.sub(" ", text.replace("\\!", "").replace("\\colon", ":")) if "\\" in text or "~" in text else text
    return " ".join(text.replace("{:}", ":").split())


def is_plain_number(text: str) -> bool:
    """Digits alone, with at most one point or comma."""
    return _PLAIN_NUMBER.fullmatch(text.strip()) is not None


def bare(latex: str) -> str:
    r"""Without math delimiters, \boxed, a currency's sign and a full stop: "$\boxed{4}$." -> "4"."""
    return undelimited(latex.replace("\\$", ""))


def undelimited(latex: str) -> str:
    """As `bare`, the currency's sign kept."""
    text = latex.strip()
    for mark in ("**", "`"):
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            text = text[len(mark) : -len(mark)].strip()
    inside = boxed(text)
    if inside is not None and (text.startswith(("\\boxed", "$\\boxed", "\\fbox")) or text.count("\\boxed") == 1):
        text = inside.strip()
    text = text[:-1].rstrip() if text.endswith(".") and not text.endswith(("\\.", "..")) else text
    for opening, closing in _WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            if opening not in inner:
                return inner.strip()
    return text


def canonical(latex: str) -> str:
    """Spelling differences removed that never change the meaning."""
    text = bare(latex)
    if "\\" in text:
        text = _LOGIC.sub(lambda m: _SIGNS[(m.lastindex or 1) - 1], text)
    for old, new in (
        ("\\left", ""), ("\\right", ""), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\!", ""), ("\\,", ""),
        ("\\;", ""), ("\\ ", ""), ("~", ""), ("\\$", ""), ("^\\circ", "°"), ("^{\\circ}", "°"), ("\\cdot", "*"),
        ("\\times", "*"), ("−", "-"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return "".join(_APART.sub("_", text).split())


def words(latex: str) -> str | None:
    r"""A plain word or several, as of a name: "\text{Paris}" -> "paris". None for anything else: a parser would read
    a product of letters, in any order."""
    text = " ".join(_TEXT.sub(r"\1", bare(latex)).replace("~", " ").split()).strip(".!")
    text = _KIND.sub("", _ARTICLE.sub("", _COUNTED.sub("", text)))
    return text.casefold() if _WORDS.fullmatch(text) else None


def ungrouped(latex: str) -> str:
    r"""A number written in groups of three, joined: "1 234" or "1\,234" -> "1234". Anything else as it is."""
    text = bare(latex)
    if _GROUPED.fullmatch(text):
        return _SEPARATOR.sub("", text)
    return latex.replace("\\$", "")


def is_empty_set(latex: str) -> bool:
    """Does it say that there is no solution?"""
    text = re.sub(r"\\(?:text|mathrm|textrm|operatorname)\s*", "", bare(latex))
    if _NONE.fullmatch(
        " ".join(text.replace("\\ ", " ").replace("{", "").replace("}", "").split()).strip(".!").lower()
    ):
        return True
    text = "".join(text.replace("\\ ", "").split()).strip(".!").lower()
    return text in _EMPTY or text.strip("{}") in _EMPTY


def looks_like_math(text: str) -> bool:
    """Short, and made of formula pieces: no prose around the answer."""
    stripped = text.strip()
    if not stripped or len(stripped) > 400 or "\n\n" in stripped:
        return False
    return not _MATHY.sub("", stripped) and not _PROSE.search(stripped)


def outer_form(latex: str) -> str:
    """ "set" for {a, b}, "tuple" for (a, b), "list" for [a, b], else ""; a, b at the top level between commas."""
    text = canonical(latex)
    forms = (("\\{", "\\}", "set"), ("\\lbrace", "\\rbrace", "set"), ("(", ")", "tuple"), ("[", "]", "list"))
    for opening, closing, name in forms:
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            return name if _top_level_commas(inner) else ""
    return ""


def _top_level_commas(text: str) -> int:
    depth = commas = 0
    for character in text:
        depth += character in "([{"
        depth -= character in ")]}"
        if depth < 0:
            return 0
        commas += character == "," and depth == 0
    return commas
